"""The pages of `xenbw report --html` in Debian's chromium."""
