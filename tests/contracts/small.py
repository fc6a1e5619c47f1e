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
    "VMIFGSM": {"steps": 3},
    # strongest fixed-eps attacks
    "APGD": {"steps": 6},
    "MultiTargeted": {"steps": 4},
    "FAB": {"steps": 10},
    "Square": {"queries": 60},
    "AutoAttack": {"steps": 5, "queries": 30},
    "Reliable": {"steps": 4, "rounds": 2, "queries": 20, "audit": 0},
    # minimal norm
    "DeepFool": {},
    "CarliniWagner": {"steps": 10, "searches": 2, "start_steps": 8},
    "EAD": {"steps": 15, "searches": 2, "start_steps": 10},
    "DDN": {"steps": 20},
    "FMN": {"steps": 20},
    "PDPGD": {"steps": 20, "start_steps": 10},
    "SigmaZero": {"steps": 30, "removals": 5},
    "Bisect": {"start": 10, "steps": 4, "rounds": 4, "halvings": 3},
    "Dichotomy": {"steps": 12, "halvings": 7, "learning_rate": 0.03},
    "AutoLoss": {"steps": 30, "learning_rate": 0.02},
    "GDA": {"steps": 30, "learning_rate": 0.02},
    # without gradients
    "SPSA": {"steps": 6, "samples": 16, "step_size": 0.3},
    "HopSkipJump": {"steps": 2, "samples": 15, "tries": 10},
    "Boundary": {"steps": 40, "tries": 10},
}
