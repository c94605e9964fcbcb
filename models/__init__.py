"""Recipes for real models: what to fetch, how to export it, what to measure it on; no weights."""

NAMES = ("minilm", "crepe", "ppocr", "efficientnet", "resnext50", "vgg", "vit", "text")
