"""Pipeline families, one file each.

Every file has the same names: ``PARTS``, the parts of such a pipeline; ``NETWORK``, the part that predicts; ``READS``, what it reads of
the properties that diffusers has no field for (:data:`vdu.models.configuration.EXTRAS`); ``matches``, whether a pipeline with these parts
is of the family; ``adapt``, which makes its denoiser.
"""
