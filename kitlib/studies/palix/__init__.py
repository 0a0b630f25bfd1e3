"""The studies of PaLI-X (2305.18565) at kit scale: which arms answer which question.

Read `runs` (how an arm is trained and tested) and `easy_tasks`, then the studies: `arms` (most of them), `sizes` (tower
against text model, at equal compute), `rare` (rare and frequent kinds).
"""
