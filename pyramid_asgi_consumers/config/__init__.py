"""The directives, one file per part."""
