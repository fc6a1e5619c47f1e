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
    "Reliable": {},
    # minimal norm
    "DeepFool": {},
    "CarliniWagner": {"steps": 30, "searches": 3},
    "EAD": {"steps": 30, "searches": 3},
    "DDN": {"steps": 20},
    "FMN": {"steps": 20},
    "PDPGD": {"steps": 20},
    "SigmaZero": {"steps": 20},
    "Bisect": {},
    "Dichotomy": {"steps": 60, "halvings": 5},
    "AutoLoss": {"steps": 100},
    "GDA": {"steps": 100},
    # without gradients
    "SPSA": {"steps": 10, "samples": 32},
    "HopSkipJump": {"steps": 5},
    "Boundary": {"steps": 100},
}
