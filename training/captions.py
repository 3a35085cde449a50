"""Words for motions: many paraphrases of what a person may type, drawn from a small grammar.

A grammar's rules hold alternatives separated by "|"; a word in angle brackets stands for a rule. Directions are the
camera's: "pan left" shows what lies to the left, so the picture's content moves right.
"""

from __future__ import annotations

import random
import re
import zlib

from training.motions import ACTIONS, COLOURS, PARTS, SHAPES, Motion, Thing

HELD_OUT_PART = 12
"""One caption in so many, by its checksum, is never trained on."""

CAMERA = {
    "pan left": (
        "<camera> <pans> <to> left|pan left|<camera> <pans> left|<a> <pan> to the left|<camera> <looks> left"
        "|<camera> <looks> to the left|<pan> to the left|leftward <pan>|the view <slides> to the left|<pans> left"
        "|<camera> <slides> left|<camera> <slides> from right to left|camera left|<pan> left"
    ),
    "pan right": (
        "<camera> <pans> <to> right|pan right|<camera> <pans> right|<a> <pan> to the right|<camera> <looks> right"
        "|<camera> <looks> to the right|<pan> to the right|rightward <pan>|the view <slides> to the right"
        "|<pans> right|<camera> <slides> right|<camera> <slides> from left to right|camera right|<pan> right"
    ),
    "pan up": (
        "<camera> <pans> up|<camera> <pans> upwards|pan up|tilt up|<camera> tilts up|<camera> tilts upwards"
        "|<a> <pan> upwards|<camera> <looks> up|the view <slides> up|<pan> up|upward <pan>|<camera> rises"
        "|<camera> <slides> up|<camera> <pans> to the top|the camera goes up|<pan> to the sky"
    ),
    "pan down": (
        "<camera> <pans> down|<camera> <pans> downwards|pan down|tilt down|<camera> tilts down"
        "|<camera> tilts downwards|<a> <pan> downwards|<camera> <looks> down|the view <slides> down|<pan> down"
        "|downward <pan>|<camera> sinks|<camera> <slides> down|<camera> <pans> to the bottom|the camera goes down"
        "|<pan> to the ground"
    ),
    "zoom in": (
        "<camera> zooms in|zoom in|<a> zoom in|zooming in|<camera> moves closer|<camera> gets closer|move closer"
        "|<camera> pushes in|push in|dolly in|<camera> <goes> forward|<camera> <goes> towards the <subject>"
        "|zoom into the picture|the view closes in|<camera> zooms in on the <subject>|close up on the <subject>"
        "|the picture gets bigger|enlarge the picture"
    ),
    "zoom out": (
        "<camera> zooms out|zoom out|<a> zoom out|zooming out|<camera> moves away|<camera> backs away|move away"
        "|<camera> pulls back|pull back|dolly out|<camera> <goes> backwards|<camera> <goes> away from the <subject>"
        "|zoom out of the picture|the view widens|<camera> zooms out from the <subject>|<camera> pulls out"
        "|the picture gets smaller|shrink the picture"
    ),
    "turn clockwise": (
        "<picture> <turns> clockwise|rotate clockwise|turn clockwise|<a> clockwise rotation|clockwise"
        "|<picture> <turns> to the right around its middle|<camera> <turns> clockwise|clockwise turn"
        "|<turning> clockwise"
    ),
    "turn counter-clockwise": (
        "<picture> <turns> <counter>|rotate <counter>|turn <counter>|<a> <counter> rotation|<counter>"
        "|<picture> <turns> to the left around its middle|<camera> <turns> <counter>|<counter> turn"
        "|<turning> <counter>"
    ),
    "brighter": (
        "<picture> <gets> brighter|<light> <gets> brighter|brighten|brighten the picture|fade to white"
        "|it <gets> brighter|<light> comes up|the sun rises|the sun comes out|more and more light|it <gets> light"
        "|<light> <gets> stronger|lights on|<picture> fades to white|brighter|<picture> lights up"
        "|the brightness goes up|increase the brightness"
    ),
    "darker": (
        "<picture> <gets> darker|<light> <gets> darker|darken|darken the picture|fade to black|it <gets> darker"
        "|fade out|<light> goes down|the sun sets|night falls|less and less light|it <gets> dark"
        "|<light> <gets> weaker|lights out|<light> fades|<picture> fades to black|darker|<picture> dims"
        "|the brightness goes down|reduce the brightness|dim the light"
    ),
}
STILL = (
    "nothing moves|still|a still picture|a still camera|the camera stays still|<camera> does not move|no motion"
    "|no movement|freeze|static shot|a static shot|everything stays still|everything is still"
    "|the <subject> does not move|the <subject> stays still|nothing happens|hold still|motionless"
    "|the camera is fixed|a fixed camera|a frozen picture|keep everything still|the scene is still|do not move"
    "|without any motion|static camera|a motionless <subject>|it stays as it is|locked camera"
)
AMBIENT = (
    "|<a> <subject>|the <subject>|<scene>|a <subject> <scene>|the <subject> <acts>|a <subject> <acts> <scene>"
    "|the <subject> <acts> <scene>|a <mood> picture|a <mood> <subject>|the <mood> <subject> <acts>"
    "|a photograph of a <subject>|<mood>|<subject> <scene>"
    "|the <person> dances gracefully, with clear movements, full of charm|a <person> <acts>"
    "|the <person> <acts> <scene>"
)
THINGS = {
    "left": "<the> <moves> left|<the> <moves> to the left|<the> <moves> from right to left|<thing> <moving> left",
    "right": "<the> <moves> right|<the> <moves> to the right|<the> <moves> from left to right|<thing> <moving> right",
    "up": "<the> <moves> up|<the> <moves> upwards|<the> rises|<the> flies up|<thing> <moving> up|<the> goes to the top",
    "down": (
        "<the> <moves> down|<the> <moves> downwards|<the> sinks|<the> falls down|<thing> <moving> down"
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
    "slow": "slowly|gently|slowly|very slowly|softly|a little|calmly",
    "normal": "||||smoothly|steadily",
    "fast": "quickly|fast|rapidly|very fast|swiftly|at high speed",
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
    "mood": (
        "beautiful|quiet|old|bright|dark|colorful|peaceful|modern|warm|cold|magical|famous|strange|happy|detailed"
        "|cinematic"
    ),
    "person": "girl|woman|man|boy|child|dancer|astronaut|lady|sailor|person|king|soldier|girl",
    "subject": (
        "<person>|cat|dog|lion|cheetah|horse|bird|flower|tree|house|tower|temple|street|car|motorcycle|rocket|ship"
        "|cup of coffee|mountain|lake|river|sea|forest|city|sky|moon|bridge|room|window|face|building|robot|train"
        "|field|garden|castle|fish|stone wall|landscape"
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
EXTRA_PART = 0.25
"""So many captions also say something that has nothing to do with the motion."""


def caption(motion: Motion, rng: random.Random) -> str:
    """One way of saying what `motion` does; never one of the held-out ones."""
    return _draw(motion, rng, held_out=False)


def held_out_caption(motion: Motion, rng: random.Random) -> str:
    """The same, of those that training never sees."""
    return _draw(motion, rng, held_out=True)


def is_held_out(text: str) -> bool:
    """Whether training leaves the caption out; upper case and punctuation play no part."""
    return zlib.crc32(" ".join(re.findall(r"\w+", text.lower())).encode()) % HELD_OUT_PART == 0


def _draw(motion: Motion, rng: random.Random, *, held_out: bool) -> str:
    while True:
        text = _sentence(motion, rng)
        if is_held_out(text) == held_out or not text:
            return text


def _sentence(motion: Motion, rng: random.Random) -> str:
    words = " ".join(_statement(motion, rng).split())
    if not motion.ambient and rng.random() < EXTRA_PART:
        words = _with_extra(words, rng)
    if rng.random() < 0.5:
        words = words[:1].upper() + words[1:]
    return words + rng.choice(("", "", ".", "!", ",") if words else ("",)).replace(
        "!", "." if rng.random() < 0.8 else "!"
    )


def _statement(motion: Motion, rng: random.Random) -> str:
    if motion.ambient:
        return _expand(AMBIENT, rng)
    if motion.thing:
        return _paced(_expand(THINGS[motion.thing.action], rng, _thing_rules(motion.thing)), motion.pace, rng)
    names = [name for name, (attribute, sign) in PARTS.items() if getattr(motion, attribute) == sign]
    if not names:
        return _expand(STILL, rng)
    rng.shuffle(names)
    said = [_expand(CAMERA[name], rng) for name in names]
    joint = rng.choice((" and ", ", ", " while ", ", then ", " and at the same time ", " as "))
    return _paced(joint.join(said), motion.pace, rng)


def _paced(text: str, pace: str, rng: random.Random) -> str:
    """Say the pace by an adverb before, in or after the text, or by an adjective before its noun."""
    match = re.match(r"(a|one|the) (pan|camera|zoom|clockwise|counter)", text)
    if match and text.split()[1] not in ("camera",) and rng.random() < 0.8:
        adjective = rng.choice(PACE_ADJECTIVES[pace].split("|"))
        return f"{match[1]} {adjective} {text.split(' ', 1)[1]}"
    adverb = rng.choice(PACE_WORDS[pace].split("|"))
    if not adverb:
        return text
    verb = re.match(r"((?:the|our|a) [\w ]+?|camera) (\w+s\b.*)", text)
    places = [f"{adverb} {text}", f"{text} {adverb}", f"{text}, {adverb}"]
    if verb and " and " not in text:
        places += [f"{verb[1]} {adverb} {verb[2]}"] * 3
    return rng.choice(places)


def _with_extra(words: str, rng: random.Random) -> str:
    extra = _expand(EXTRAS, rng)
    pattern = rng.choice(
        ("{extra}, {words}", "{words}, {extra}", "{extra}. {words}", "{words}. {extra}", "{extra} while {words}")
    )
    return pattern.format(extra=extra, words=words)


def _thing_rules(thing: Thing) -> dict[str, str]:
    colour = COLOUR_WORDS.get(thing.colour, thing.colour)
    return {"thing": " ".join(("<colour>", "<shape>")), "colour": colour, "shape": SHAPE_WORDS[thing.shape]}


def _expand(pattern: str, rng: random.Random, more: dict[str, str] | None = None) -> str:
    rules = RULES | (more or {})
    text = rng.choice(pattern.split("|"))
    while "<" in text:
        text = re.sub(r"<(\w+)>", lambda found: rng.choice(rules[found[1]].split("|")), text)
    return text


LABELS = {
    "pan_x": (-1, 0, 1),
    "pan_y": (-1, 0, 1),
    "zoom": (-1, 0, 1),
    "turn": (-1, 0, 1),
    "light": (-1, 0, 1),
    "pace": ("slow", "normal", "fast"),
    "ambient": (False, True),
    "shape": (None, *SHAPES),
    "colour": (None, *COLOURS),
    "action": (None, *ACTIONS),
}
"""What a caption says, as classes; text encoders learn to tell them."""


def labels(motion: Motion) -> list[int]:
    """The class of `motion` for each of LABELS."""
    values = {
        name: getattr(motion.thing if name in ("shape", "colour", "action") else motion, name, None) for name in LABELS
    }
    return [classes.index(values[name]) for name, classes in LABELS.items()]
