"""Pipeline families, one file each: ``matches`` says whether a pipeline is of the family, ``adapt`` makes its denoiser."""
