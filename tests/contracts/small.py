"""Parameters that make an attack quick enough for the contracts and still able to break a small net."""

SMALL: dict[str, dict[str, object]] = {
    "FGSM": {},
    "PGD": {"steps": 4},
    "Noise": {},
    # transfer family
    "BIM": {"steps": 4},
    "MIFGSM": {"steps": 4},
    "NIFGSM": {"steps": 4},
    "DIFGSM": {"steps": 4},
    "TIFGSM": {"steps": 4},
    "VMIFGSM": {"steps": 2},
    # strongest fixed-eps attacks
    "APGD": {"steps": 5},
    "MultiTargeted": {"steps": 4},
    "FAB": {"steps": 6},
    "Square": {"queries": 40},
    "AutoAttack": {"steps": 4, "queries": 20},
    "Reliable": {"steps": 3, "rounds": 1, "polish": 9, "queries": 5, "audit": 0},
    # minimal norm
    "DeepFool": {},
    "CarliniWagner": {"steps": 8, "searches": 2, "start_steps": 5},
    "EAD": {"steps": 10, "searches": 2, "start_steps": 5},
    "DDN": {"steps": 12},
    "FMN": {"steps": 12},
    "PDPGD": {"steps": 10, "start_steps": 6},
    "SigmaZero": {"steps": 20, "removals": 5},
    "Bisect": {"start": 5, "steps": 3, "rounds": 4, "halvings": 3},
    "Dichotomy": {"steps": 10, "halvings": 6, "learning_rate": 0.05},
    "AutoLoss": {"steps": 8, "learning_rate": 0.08},
    "GDA": {"steps": 8, "learning_rate": 0.08},
    # without gradients
    "SPSA": {"steps": 4, "samples": 8, "step_size": 0.3},
    "HopSkipJump": {"steps": 2, "samples": 10, "tries": 5},
    "Boundary": {"steps": 20, "tries": 10},
}
