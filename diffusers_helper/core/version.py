"""The program's version: the wheel has it from here, and a tag of this name is made when it is published."""

VERSION = "0.1.0"
