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
    "Square": {"queries": 200},
    "AutoAttack": {"steps": 5, "queries": 100},
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
    "AutoLoss": {"steps": 60, "learning_rate": 0.01},
    "GDA": {"steps": 60, "learning_rate": 0.01},
    # without gradients
    "SPSA": {"steps": 6, "samples": 16, "step_size": 0.3},
    "HopSkipJump": {"steps": 3, "samples": 20, "tries": 10},
    "Boundary": {"steps": 40, "tries": 10},
}
