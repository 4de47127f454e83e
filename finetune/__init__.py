"""The recipe of a LoRA adapter: python -m finetune.train CONFIG."""
