"""Rows: what people store as data, as it is stored: pictures, texts, sounds and numbers, before they are tensors."""
