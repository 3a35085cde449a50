"""The grammar of captions, as data.

Rules hold alternatives separated by "|"; a word in angle brackets stands for a rule. Directions are the camera's:
"pan left" shows what lies to the left, so the picture's content moves right. The rule "unknown" stands for a made-up
word.
"""

from __future__ import annotations

CAMERA = {
    "pan left": (
        "<camera> <pans> <to> left|pan left|<camera> <pans> left|<a> <pan> to the left|<camera> <looks> left"
        "|<camera> <looks> to the left|<pan> to the left|leftward <pan>|the view <slides> to the left|<pans> left"
        "|<camera> <slides> left|<camera> <slides> from right to left|camera left|<pan> left"
        "|<camera> <slides> <lefts>|<shift> the <frame> <lefts>|the <frame> <slides> <lefts>"
        "|<a> camera <movement> <lefts>|<shift> the camera <lefts>|let the camera <move> <lefts>"
        "|make the <frame> <move> <lefts>|<a> leftward <movement> of the <frame>|leftward <movement>"
        "|<camera> is <panning> <lefts>|<camera> keeps <panning> <lefts>|<panning> <lefts>|go <lefts>"
        "|look <lefts>|<shift> <lefts>|<a> tracking shot <lefts>|<show> what is on the left"
        "|we <look> <lefts>"
    ),
    "pan right": (
        "<camera> <pans> <to> right|pan right|<camera> <pans> right|<a> <pan> to the right|<camera> <looks> right"
        "|<camera> <looks> to the right|<pan> to the right|rightward <pan>|the view <slides> to the right"
        "|<pans> right|<camera> <slides> right|<camera> <slides> from left to right|camera right|<pan> right"
        "|<camera> <slides> <rights>|<shift> the <frame> <rights>|the <frame> <slides> <rights>"
        "|<a> camera <movement> <rights>|<shift> the camera <rights>|let the camera <move> <rights>"
        "|make the <frame> <move> <rights>|<a> rightward <movement> of the <frame>|rightward <movement>"
        "|<camera> is <panning> <rights>|<camera> keeps <panning> <rights>|<panning> <rights>|go <rights>"
        "|look <rights>|<shift> <rights>|<a> tracking shot <rights>|<show> what is on the right"
        "|we <look> <rights>"
    ),
    "pan up": (
        "<camera> <pans> up|<camera> <pans> upwards|pan up|tilt up|<camera> tilts up|<camera> tilts upwards"
        "|<a> <pan> upwards|<camera> <looks> up|the view <slides> up|<pan> up|upward <pan>|<camera> rises"
        "|<camera> <slides> up|<camera> <pans> to the top|the camera goes up|<pan> to the sky"
        "|<camera> <slides> <ups>|<shift> the <frame> <ups>|the <frame> <slides> <ups>"
        "|<a> camera <movement> <ups>|<shift> the camera <ups>|let the camera <move> <ups>"
        "|make the <frame> <move> <ups>|<a> upward <movement> of the <frame>|upward <movement>"
        "|<camera> is <panning> <ups>|<camera> keeps <panning> <ups>|<panning> <ups>|go <ups>|look <ups>"
        "|<shift> <ups>|<a> tracking shot <ups>|<show> what is <above>|we <look> <ups>"
    ),
    "pan down": (
        "<camera> <pans> down|<camera> <pans> downwards|pan down|tilt down|<camera> tilts down"
        "|<camera> tilts downwards|<a> <pan> downwards|<camera> <looks> down|the view <slides> down|<pan> down"
        "|downward <pan>|<camera> sinks|<camera> <slides> down|<camera> <pans> to the bottom|the camera goes down"
        "|<pan> to the ground"
        "|<camera> <slides> <downs>|<shift> the <frame> <downs>|the <frame> <slides> <downs>"
        "|<a> camera <movement> <downs>|<shift> the camera <downs>|let the camera <move> <downs>"
        "|make the <frame> <move> <downs>|<a> downward <movement> of the <frame>|downward <movement>"
        "|<camera> is <panning> <downs>|<camera> keeps <panning> <downs>|<panning> <downs>|go <downs>"
        "|look <downs>|<shift> <downs>|<a> tracking shot <downs>|<show> what is <below>|we <look> <downs>"
    ),
    "zoom in": (
        "<camera> zooms in|zoom in|<a> zoom in|zooming in|<camera> moves closer|<camera> gets closer|move closer"
        "|<camera> pushes in|push in|dolly in|<camera> <goes> forward|<camera> <goes> towards the <subject>"
        "|zoom into the picture|the view closes in|<camera> zooms in on the <subject>|close up on the <subject>"
        "|the picture gets bigger|enlarge the picture"
        "|let the camera zoom in|make it zoom in|<camera> is zooming in|<camera> keeps zooming in"
        "|zoom closer|go closer|come closer|get nearer|<camera> comes nearer|<camera> approaches"
        "|approach the <subject>|magnify the <frame>|the <frame> is magnified|the <frame> <gets> larger"
        "|<camera> moves into the <frame>|tighten the <frame>|the <frame> tightens"
        "|bring the <subject> closer|a forward <movement>|<shift> the camera forward|<show> more detail"
    ),
    "zoom out": (
        "<camera> zooms out|zoom out|<a> zoom out|zooming out|<camera> moves away|<camera> backs away|move away"
        "|<camera> pulls back|pull back|dolly out|<camera> <goes> backwards|<camera> <goes> away from the <subject>"
        "|zoom out of the picture|the view widens|<camera> zooms out from the <subject>|<camera> pulls out"
        "|the picture gets smaller|shrink the picture"
        "|let the camera zoom out|make it zoom out|<camera> is zooming out|<camera> keeps zooming out"
        "|go farther away|<camera> retreats|<camera> withdraws|move the camera back|widen the <frame>"
        "|the <frame> <gets> wider|the <frame> is reduced|the <frame> <gets> smaller|a backward <movement>"
        "|<shift> the camera back|<show> more of the scene|<show> the surroundings|step back"
        "|from further away|<camera> draws back"
    ),
    "turn clockwise": (
        "<picture> <turns> clockwise|rotate clockwise|turn clockwise|<a> clockwise rotation|clockwise"
        "|<picture> <turns> to the right around its middle|<camera> <turns> clockwise|clockwise turn"
        "|<turning> clockwise"
        "|<rotate> the <frame> clockwise|let the <frame> <turn> clockwise"
        "|the <frame> is <turning> clockwise|the <frame> keeps <turning> clockwise|a turn clockwise"
        "|tilt the <frame> to the right side|like the hands of a clock|roll the camera clockwise"
        "|make it <turn> clockwise"
    ),
    "turn counter-clockwise": (
        "<picture> <turns> <counter>|rotate <counter>|turn <counter>|<a> <counter> rotation|<counter>"
        "|<picture> <turns> to the left around its middle|<camera> <turns> <counter>|<counter> turn"
        "|<turning> <counter>"
        "|<rotate> the <frame> <counter>|let the <frame> <turn> <counter>"
        "|the <frame> is <turning> <counter>|the <frame> keeps <turning> <counter>|a turn <counter>"
        "|tilt the <frame> to the left side|against the hands of a clock|roll the camera <counter>"
        "|make it <turn> <counter>"
    ),
    "brighter": (
        "<picture> <gets> brighter|<light> <gets> brighter|brighten|brighten the picture|fade to white"
        "|it <gets> brighter|<light> comes up|the sun rises|the sun comes out|more and more light|it <gets> light"
        "|<light> <gets> stronger|lights on|<picture> fades to white|brighter|<picture> lights up"
        "|the brightness goes up|increase the brightness"
        "|make it brighter|make the <frame> brighter|turn up the light|let it get lighter|lighten"
        "|lighten the <frame>|increase the exposure|the exposure goes up|<light> is <getting> brighter"
        "|the <frame> is <getting> brighter|more light|add light|raise the brightness|day breaks|dawn"
        "|the <frame> turns white|let there be light|it lights up"
    ),
    "darker": (
        "<picture> <gets> darker|<light> <gets> darker|darken|darken the picture|fade to black|it <gets> darker"
        "|fade out|<light> goes down|the sun sets|night falls|less and less light|it <gets> dark"
        "|<light> <gets> weaker|lights out|<light> fades|<picture> fades to black|darker|<picture> dims"
        "|the brightness goes down|reduce the brightness|dim the light"
        "|make it darker|make the <frame> darker|turn down the light|let it get darker|less light"
        "|decrease the exposure|the exposure goes down|<light> is <getting> darker"
        "|the <frame> is <getting> darker|lower the brightness|it is <getting> dark|dusk"
        "|the <frame> turns black|switch off the light|the lights go out|the <frame> goes dark"
        "|evening comes|shade the <frame>"
    ),
}
STILL = (
    "nothing moves|still|a still picture|a still camera|the camera stays still|<camera> does not move|no motion"
    "|no movement|freeze|static shot|a static shot|everything stays still|everything is still"
    "|the <subject> does not move|the <subject> stays still|nothing happens|hold still|motionless"
    "|the camera is fixed|a fixed camera|a frozen picture|keep everything still|the scene is still|do not move"
    "|without any motion|static camera|a motionless <subject>|it stays as it is|locked camera|keep still|stay still"
    "|keep the camera still|the <frame> does not change|the <frame> stays the same|no camera <movement>|stand still"
    "|leave it as it is|everything is frozen|stop|do nothing|no changes|the <frame> remains still|completely still"
)
LEAN = (
    "lean over|lean|the <frame> leans over|the <frame> leans to the side|everything leans over|the <subject> leans over"
    "|lean over slowly|make it lean over|the top leans over|all of it leans over|it leans over|the scene leans over"
)
AMBIENT = (
    "|<a> <subject>|the <subject>|<scene>|a <subject> <scene>|the <subject> <acts>|a <subject> <acts> <scene>"
    "|the <subject> <acts> <scene>|a <mood> picture|a <mood> <subject>|the <mood> <subject> <acts>"
    "|a photograph of a <subject>|<mood>|<subject> <scene>"
    "|the <person> dances gracefully, with clear movements, full of charm|a <person> <acts>"
    "|the <person> <acts> <scene>|<unknown>|a <unknown>|a <unknown> <acts>|the <unknown> <scene>"
)
THINGS = {
    "left": "<the> <moves> <lefts>|<the> <moves> from right to left|<thing> <moving> <lefts>|<shift> <the> <lefts>",
    "right": "<the> <moves> <rights>|<the> <moves> from left to right|<thing> <moving> <rights>|<shift> <the> <rights>",
    "up": "<the> <moves> <ups>|<the> rises|<the> flies up|<thing> <moving> <ups>|<shift> <the> <ups>",
    "down": (
        "<the> <moves> <downs>|<the> sinks|<the> falls down|<thing> <moving> <downs>|<shift> <the> <downs>"
        "|<the> goes to the bottom"
    ),
    "bounce": (
        "<the> bounces|<the> jumps up and down|<thing> bouncing|<the> bounces up and down|<the> hops|bouncing <thing>"
    ),
    "spin": (
        "<the> spins|<the> rotates|<the> turns around|spinning <thing>|<thing> spinning|<the> spins around itself"
        "|rotating <thing>"
    ),
    "grow": "<the> grows|<the> gets bigger|<the> becomes larger|growing <thing>|<thing> getting larger|<the> swells",
    "shrink": "<the> shrinks|<the> gets smaller|<the> becomes smaller|shrinking <thing>|<thing> getting smaller",
    "enter left": "<the> <enters> from the left|<thing> <entering> from the left|<the> appears from the left side",
    "enter right": "<the> <enters> from the right|<thing> <entering> from the right|<the> appears from the right side",
    "drop": (
        "<the> drops into the picture|<the> falls in from the top|<the> <enters> from above"
        "|<thing> dropping from the top"
    ),
}
SHAPE_WORDS = {
    "disc": "ball|ball|disc|circle|dot|sphere",
    "square": "square|square|box|block|cube",
    "triangle": "triangle",
}
COLOUR_WORDS = {"purple": "purple|violet"}
PACE_WORDS = {
    "slow": "slowly|gently|slowly|very slowly|softly|a little|calmly|at a slow pace|without haste|in slow motion",
    "normal": "||||smoothly|steadily",
    "fast": "quickly|fast|rapidly|very fast|swiftly|at high speed|at a fast pace|very quickly|in a hurry",
}
PACE_ADJECTIVES = {"slow": "slow|gentle|slow|calm", "normal": "|||smooth|steady", "fast": "fast|quick|rapid"}
RULES = {
    "camera": "the camera|camera|the camera|the view|our camera",
    "pans": "pans|moves|pans|swings|travels|drifts",
    "pan": "pan|camera pan|camera move|panning shot|panning",
    "looks": "looks|turns to look|glances",
    "slides": "slides|glides|shifts|moves",
    "goes": "goes|moves|travels|drives|flies",
    "to": "to the|toward the|towards the",
    "picture": "the picture|the image|the photo|the scene|the view|everything|the whole picture",
    "turns": "turns|rotates|spins|rolls",
    "turning": "turning|rotating|spinning|rolling",
    "counter": "counter-clockwise|counterclockwise|anti-clockwise|anticlockwise",
    "gets": "gets|becomes|grows|turns",
    "light": "the light|the room|the scene|the sky|the light",
    "the": "the <thing>|a <thing>|<thing>|the <thing>",
    "moves": "moves|moves|slides|goes|flies|travels|rolls|drifts",
    "moving": "moving|sliding|going|flying|rolling",
    "enters": "comes in|enters|rolls in|slides in|flies in|moves in",
    "entering": "coming in|entering|rolling in",
    "a": "a|a|one|the",
    "frame": "view|frame|picture|image|shot|scene|view|viewpoint|framing|whole frame",
    "shift": "move|shift|slide|drag|take|bring|push|move|swing|scroll",
    "rotate": "rotate|turn|spin|roll|twist",
    "move": "move|slide|travel|drift|glide|go|pan",
    "movement": "movement|motion|move|drift|travel|shift",
    "panning": "moving|panning|sliding|drifting|travelling|gliding|swinging|shifting|going",
    "turn": "turn|rotate|spin|roll",
    "look": "look|turn|move|go|drift",
    "show": "show|reveal|show us|let us see|see",
    "getting": "getting|becoming|growing",
    "lefts": "left|to the left|leftward|leftwards|to the left side|towards the left|toward the left side|left",
    "rights": "right|to the right|rightward|rightwards|to the right side|towards the right|toward the right side|right",
    "ups": "up|upward|upwards|to the top|towards the top|higher|up",
    "downs": "down|downward|downwards|to the bottom|towards the bottom|lower|down",
    "above": "above|at the top|higher up",
    "below": "below|at the bottom|further down",
    "mood": (
        "beautiful|quiet|old|bright|dark|colorful|peaceful|modern|warm|cold|magical|famous|strange|happy|detailed"
        "|cinematic"
    ),
    "person": "girl|woman|man|boy|child|dancer|astronaut|lady|sailor|person|king|soldier|girl",
    "subject": (
        "<person>|cat|dog|lion|cheetah|horse|bird|flower|tree|house|tower|temple|street|car|motorcycle|rocket|ship"
        "|cup of coffee|mountain|lake|river|sea|forest|city|sky|moon|bridge|room|window|face|building|robot|train"
        "|field|garden|castle|fish|stone wall|landscape|<unknown>|<unknown>|<unknown>"
    ),
    "acts": (
        "smiles|dances|talks|sings|waves|walks|runs|looks at us|laughs|sleeps|eats|reads|sits on a chair"
        "|stands there|breathes|plays|blinks|shines|glows|waits|turns its head|raises a hand|drinks tea"
        "|flies through the air|opens its eyes|works"
    ),
    "scene": (
        "on a sunny beach|in a dark forest|by a mountain lake|on a stage|in the rain|by the window"
        "|under a cloudy sky|in the snow|in a busy street|at sunset|in a field of flowers|between tall buildings"
        "|in outer space|at night|in the morning|in the garden|in front of a wall|on the table"
    ),
}
EXTRAS = (
    "a <subject> <scene>|the <mood> <subject>|<subject> <scene>|a <mood> picture"
    "|the <person> <acts>|a <person> <acts> <scene>"
)
FRAMES = (
    "<thing> <place> <on> <ground>|<thing> <on> <ground> <place>|<ground> with <thing> <place>|<thing>, <ground>"
    "|<ground>, <thing> <place>|<picture_of> <thing> <place> <on> <ground>|<thing> <place>, behind it <ground>"
    "|there is <thing> <place> <on> <ground>|<thing> in front of <ground> <place>"
)
EMPTY_FRAMES = (
    "<ground>|only <ground>|<picture_of> <ground>|an empty picture with <ground>|nothing but <ground>|<ground>, empty"
)
"""Pictures without a thing."""
GROUNDS = {
    "plain": "a <ground_colour> background|<ground_colour> background|a plain <ground_colour> background",
    "gradient": (
        "a <ground_colour> gradient|<ground_colour> fading to black|a <ground_colour> gradient background"
        "|a <ground_colour> to black gradient"
    ),
    "stripes": (
        "<ground_colour> stripes|<ground_colour> and grey stripes|a striped <ground_colour> background"
        "|a background of <ground_colour> stripes"
    ),
}
PLACES = {
    "middle": "||in the middle|in the center|at the centre",
    "left": "on the left|at the left|to the left|on the left side",
    "right": "on the right|at the right|to the right|on the right side",
    "top": "at the top|up in the picture|above the middle|in the upper part",
    "bottom": "at the bottom|down in the picture|below the middle|in the lower part",
}
SIZES = {"small": "small|little|tiny", "normal": "||normal|medium", "large": "large|big|huge"}
FRAME_RULES = {
    "on": "on|over|in front of|against|upon",
    "picture_of": "a picture of|an image of|a photo of|a drawing of|draw|show",
}
FILLERS = ("please", "now", "then", "just", "from here", "next", "from now on", "in this shot")
"""Said before or after a sentence, they change nothing."""
DROPPED = frozenset(("the", "a", "our", "one", "to", "of", "is", "us"))
"""Words that people leave out."""
