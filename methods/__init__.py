"""One file or folder per distillation method. Each registers itself; nothing here lists them."""
