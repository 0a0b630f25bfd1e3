"""Synthetic data whose correct answers are known by construction: scenes, videos, few-shot episodes, rendered text.

Read `scenes` (objects with boxes, questions about them), then `video`, `episodes` and `rendered_text` (words, pages,
receipts); `multimodal` turns them into examples of tasks. `named_pictures` draws each object in several styles and asks
for what objects are called.
"""
