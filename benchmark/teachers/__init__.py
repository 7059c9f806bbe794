"""Teachers that are not timm backbones: a file per kind, registered in `TEACHERS`."""
