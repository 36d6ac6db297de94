"""Records, pictures, prompts and answers. Import from the module that does the work; nothing here needs torch."""
