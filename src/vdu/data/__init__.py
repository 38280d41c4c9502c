"""Image sets, where they come from, what of them is to be forgotten, and copies that two sets share."""
