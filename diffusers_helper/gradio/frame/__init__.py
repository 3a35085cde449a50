"""What stands around the regions: heading, menus of language and colours, and on a phone a bar at the bottom."""
