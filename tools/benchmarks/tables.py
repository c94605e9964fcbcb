def document(lines, models, setting): return ""
