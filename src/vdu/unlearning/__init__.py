"""A pipeline and the images to forget in, a pipeline that no longer makes them out."""
