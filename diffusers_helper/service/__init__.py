"""Running the page as a program: its start, its end, who may reach it, and how it is."""
