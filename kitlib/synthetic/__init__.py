"""Synthetic data whose correct answers are known by construction: scenes, videos, few-shot episodes, rendered text.

Read `scenes` (objects with boxes, questions about them) and `named_pictures` (each object in several styles), then `video`,
`episodes`, `rendered_text` and `rendered_text`; `multimodal` turns them into examples of tasks. `named_pictures` asks
for what things are called.
"""
