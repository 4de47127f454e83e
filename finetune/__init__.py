"""The recipe for LoRA adapters: python -m finetune.train CONFIG."""
