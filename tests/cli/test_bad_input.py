"""Whatever is wrong is said in one line, with exit code 2 and nothing lost."""

import pickle
import shutil
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from steelman import fitting
from steelman.attacks.pgd import PGD
from steelman.certification import Certification
from steelman.certify.interval import Interval
from steelman.comparison import Comparison
from steelman.crossing import Crossing
from steelman.defences.bit_depth import BitDepth
from steelman.errors import UsageError
from steelman.measurement import Measurement
from steelman.runs import Run
from steelman.threats import Linf, Threat
from steelman.train import load_run

LINF = ("--threat", "Linf(0.1)")


def save(path, **arrays):
    np.savez(path, **arrays)
    return path


def pictures(path, num=6, size=8):
    for name in ("cat", "dog"):
        (path / name).mkdir(parents=True)
        for index in range(num):
            Image.new("L", (size, size), 20 * index).save(path / name / f"{index}.png")
    return path


def images(num=30, shape=(8, 8)):
    return np.zeros((num, *shape), "uint8"), np.arange(num) % 3


# names


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("train", "CNM"), r"unknown architecture 'CNM'. Did you mean CNN? Possible: AlexNet28"),
        (("train", "CNN(size=3)"), "unknown field of CNN 'size'. Possible: dropout, protection."),
        (("train", "CNN("), "cannot read 'CNN(' as a spec"),
        (("train", "CNN", "--data", "mnits"), "unknown data 'mnits'. Did you mean MNIST? Possible: Arrays, CIFAR10"),
        (("train", "CNN", "--data", "mnits"), "Or give the path of a folder or .zip"),
        (("train", "CNN", "--data", "nowhere/photos"), "nowhere/photos does not exist"),
        (("train", "CNN", "--objective", "Advers"), "unknown objective 'Advers'"),
        (("train", "CNN", "--recipe", "Recipe(speed=3)"), "unknown field of Recipe 'speed'"),
        (("train", "CNN", "--schedule", "steep"), 'Invalid value "steep" for --schedule. Choose from: "constant"'),
        (("train", "CNN", "--lr", "-1"), "lr is -1.0. Expected a positive number"),
        (("train", "CNN", "--lr", "fast"), 'Invalid value for --lr: unable to convert "fast" into float'),
        (("train", "CNN", "--seed", "-1"), "seed is -1. Expected 0 or more, and less than 2^63."),
        (
            ("train", "CNN", "--seed", str(2**63)),
            "seed is 9223372036854775808. Expected 0 or more, and less than 2^63.",
        ),
        (("train", "CNN", "--device", "tpu"), "there is no device 'tpu' here. Possible: cpu"),
        (("train", "CNN", "--skip-bad"), "--skip-bad was given for Digits(). It leaves out pictures of a folder"),
        (("train", "CNN", "--start", "nowhere"), "is no directory. Expected a run directory"),
        (("train", "CNN", "--epoch", "3"), "Unknown option: --epoch. Did you mean --epochs? Possible: --batch-size"),
        (("train",), "requires an argument. See steelman train --help."),
        (("trian", "CNN"), 'Unknown command "trian". Did you mean "train"?'),
        (("evaluate", *LINF), "no model was given. Give run directories such as runs/cnn, or --model"),
        (("evaluate", "runs/nowhere", *LINF), "is no directory. Expected a run directory"),
        (("evaluate", "--model", "CNN", *LINF), "no data were given. Say which with --data"),
        (("evaluate", "--model", "CNN", "--data", "digits", *LINF), "CNN was given without weights"),
        (
            ("evaluate", "--model", "runs/plain", "--data", "digits", *LINF),
            "runs/plain is a run directory. Give it with",
        ),
        (("evaluate", "--model", "CNN", "--data", "digits", "--weights", "no.pt", *LINF), "no.pt does not exist"),
        (("evaluate", "--model", "no_such_module:net", "--data", "digits", *LINF), "no module 'no_such_module'"),
        (("evaluate", "--model", "math:pi", "--data", "digits", *LINF), "math:pi is a float"),
        (("study", "finetun"), "unknown study 'finetun'"),
        (("study", "finetune", "--scale", "huge"), 'Invalid value "huge" for --scale. Choose from: "smoke"'),
        (("report", "nowhere"), "nowhere is no directory"),
        (("list", "nets"), 'Invalid value "nets" for WHAT. Choose from: "attacks"'),
    ],
)
def test_unknown_names_are_answered_with_the_choices(refused, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STEELMAN_DATA", str(tmp_path))
    assert said in refused(*words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("PGB()", *LINF), "unknown attack 'PGB'. Did you mean PGD? Possible: "),
        (("PGD(stps=3)", *LINF), "unknown field of PGD 'stps'. Did you mean steps? Possible: loss"),
        (("PGD(steps=0)", *LINF), "expected at least one step"),
        (
            ("PGD()", "--threat", "Lin(0.1)"),
            "unknown threat 'Lin'. Did you mean Linf? Possible: Groups, L0, L1, L2, Linf",
        ),
        (("PGD()", "--threat", "Linf"), "Linf needs eps"),
        (("PGD()", "--threat", "Linf(-0.1)"), "Linf: eps is -0.1. Expected a radius >= 0"),
        (("PGD()", "--threat", "Linf(nan)"), "Linf: eps is nan. Expected a radius >= 0"),
        (("PGD()",), "no threat was given. Say what an attacker may do with --threat, such as Linf(0.3)"),
        (("PGD()", *LINF, "--num", "0"), "num is 0. Expected 1 image or more."),
        (("PGD()", *LINF, "--num", "many"), "Invalid value for --num: 'many' is no whole number."),
        (("PGD()", *LINF, "--seed", "-1"), "seed is -1. Expected 0 or more, and less than 2^63."),
        (
            ("PGD()", *LINF, "--seed", str(2**63)),
            "seed is 9223372036854775808. Expected 0 or more, and less than 2^63.",
        ),
        (("", *LINF), "cannot read '' as a spec"),
        (("PGD()", *LINF, "--target", "3"), "target is 3. Expected a class from 0 to 2 (0, 1, 2)."),
        (("PGD()", *LINF, "--target", "worst"), "unknown target 'worst'. Possible: least-likely, next, random. Or the"),
        (
            ("PGD()", *LINF, "--export", "set.jpg"),
            "nothing is known of .jpg. Possible: FILE.npz, FILE.safetensors, or a",
        ),
        (("PGD()", *LINF, "--weights", "w.pt"), "w.pt were given without a model. Say which with --model."),
        (("PGD()", *LINF, "--seed", "1.5"), "Invalid value for --seed: '1.5' is no whole number."),
        (("PGD()", "--threat", "0.1"), "'0.1' names nothing. Expected a name or a call such as Linf(0.3)."),
        (("PGD()", *LINF, "--model", "CNN"), "two models were given"),
        (("PGD()", *LINF, "--skip-bad"), "--skip-bad was given for Arrays("),
        (("PGD()", *LINF, "more"), "Unused Tokens: ['more']"),
    ],
)
def test_what_an_attack_cannot_use_is_said(refused, runs, words, said):
    assert said in refused("attack", runs / "plain", *words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--curve", "0.1,many"), "cannot read the radii '0.1,many'. Expected such as 0.05,0.1,8/255, or how many."),
        (("--curve", "1/0"), "cannot read the radii '1/0'."),
        (("--curve", "0"), "0 radii up to Linf(0.1). Expected 1 to 1000 up to a finite eps, or the radii"),
        (("--curve", "0.1,-0.2"), "the radii of a curve are -0.2, 0.1. Expected finite ones above 0"),
        (("--curve", "4", "--threat", "L2(inf)"), "4 radii up to L2(inf). Expected 1 to 1000 up to a finite eps"),
        (("--nearest", "FMN()"), "FMN() is for a curve, and no radii were given. Say which with --curve."),
        (("--curve", "1000001"), "1000001 radii up to Linf(0.1). Expected 1 to 1000 up to a finite eps"),
        (("--curve", "4", "--nearest", "DDN()"), "DDN() does not search in Linf"),
        (("--curve", "4", "--nearest", "PGD()"), "PGD() is no search for the nearest success. Give one, such as DDN()"),
        (("--curve", "4", "--nearest", "Reliable()"), "Reliable() is no search for the nearest success."),
        (("--curve", "4", "--nearest", "Strongest((FMN(), PGD()))"), "is no search for the nearest success."),
    ],
)
def test_what_a_curve_cannot_use_is_said(refused, runs, words, said):
    threat = () if "--threat" in words else LINF
    assert said in refused("evaluate", runs / "plain", *threat, *words)


def test_places_that_are_no_export_are_refused_before_computing(refused, runs, tmp_path, no_training):
    (tmp_path / "file").touch()
    words = ("attack", runs / "plain", *LINF, "--export")
    assert "cannot write to" in refused(*words, tmp_path / "file" / "set.npz")
    assert "is there already and not an empty folder" in refused(*words, tmp_path)


def test_a_target_that_every_image_has_is_refused(refused, runs):
    label = load_file(runs / "plain/examples/natural.safetensors")["label"][0].item()
    said = refused("attack", runs / "plain", *LINF, "--num", "1", "--target", label)
    assert f"all 1 images are of the target class {label}. Choose another, or more images." in said


# data


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"images": np.full((30, 8, 8), 2.0)}, "pixels run from 2 to 2. Expected [0, 1]. These look like levels"),
        ({"images": np.full((30, 8, 8), -1.0)}, "These look normalised"),
        ({"images": np.full((30, 8, 8), np.nan)}, "30 images hold NaN or infinite pixels, the first is number 0"),
        ({"images": np.zeros((30, 8, 8), "int32")}, "images are torch.int32. Expected uint8, or float in [0, 1]"),
        ({"images": np.zeros((30, 5, 8, 8), "uint8")}, "has no axis of 1 or 3 channels"),
        ({"images": np.zeros((30, 3, 8, 8), "uint8")}, "has images of 3x8x8, plain was trained on 1x8x8"),
        ({"images": np.zeros((30, 9, 9), "uint8")}, "has images of 1x9x9, plain was trained on 1x8x8"),
        ({"images": np.zeros((0, 8, 8), "uint8"), "labels": np.zeros(0, "int64")}, "images are empty"),
        ({"labels": np.arange(30) % 3 - 1}, "labels run from -1 to 1. Expected 0 to the number of classes - 1"),
        ({"labels": np.arange(30) % 5}, "has 5 classes (0, 1, 2, 3, 4), the model knows 3 (0, 1, 2)"),
        ({"labels": np.zeros(30)}, "labels are torch.float64. Expected whole numbers"),
        ({"labels": np.zeros(29, "int64")}, "labels have shape (29,) for 30 images"),
    ],
)
def test_arrays_that_are_no_images_are_refused(refused, runs, tmp_path, change, said):
    x, y = images()
    path = save(tmp_path / "mine.npz", **{"images": x, "labels": y, **change})
    assert said in refused("evaluate", runs / "plain", *LINF, "--data", path)


def test_unreadable_files_are_refused(refused, runs, arrays, tmp_path):
    cut = tmp_path / "cut.npz"
    cut.write_bytes(arrays.read_bytes()[:500])
    assert "cut.npz cannot be read" in refused("evaluate", runs / "plain", *LINF, "--data", cut)
    cut = tmp_path / "cut.zip"
    cut.write_bytes(b"PK\x03\x04 and no more")
    assert "cut.zip" in refused("evaluate", runs / "plain", *LINF, "--data", cut)
    text = tmp_path / "notes.txt"
    text.write_text("no pictures")
    assert "notes.txt" in refused("evaluate", runs / "plain", *LINF, "--data", text)


def test_a_wrong_checksum_is_said(refused, tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (raw / f"{name}-ubyte").write_bytes(b"not it")
    assert "has the wrong checksum" in refused("train", "CNN", "--data", "mnist", "--data-root", tmp_path)


def test_folders_without_classes_are_refused(refused, tmp_path):
    (tmp_path / "flat").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "flat" / "0.png")
    assert "Expected at least two: <class>/<picture>" in refused("train", "CNN", "--data", tmp_path / "flat")
    (tmp_path / "empty").mkdir()
    assert "holds no pictures" in refused("train", "CNN", "--data", tmp_path / "empty")


@pytest.mark.parametrize("packed", [False, True])
def test_corrupt_pictures_are_named_or_counted(call, refused, tmp_path, packed):
    path = pictures(tmp_path / "photos", 10)
    (path / "dog" / "3.png").write_bytes((path / "dog" / "3.png").read_bytes()[:40])
    if packed:
        with zipfile.ZipFile(tmp_path / "photos.zip", "w") as file:
            for picture in sorted(path.rglob("*.png")):
                file.write(picture, picture.relative_to(path))
        path = tmp_path / "photos.zip"
    words = ("train", "Linear1(width=4)", "--data", path, "--epochs", "1", "--batch-size", "4", "--out", tmp_path / "r")
    said = refused(*words)
    assert "dog/3.png is corrupt" in said
    assert "--skip-bad" in said
    code, out, err = call(*words, "--skip-bad")
    assert (code, err) == (0, "")
    assert "note     left out 1 corrupt: dog/3.png" in out
    code, out, err = call("attack", tmp_path / "r", "FGSM()", *LINF)  # the run knows how its data are read
    assert (code, err) == (0, "")
    assert "left out 1 corrupt: dog/3.png" in out
    code, out, err = call("attack", tmp_path / "r", "FGSM()", *LINF, "--skip-bad")
    assert (code, err) == (0, "")


def test_runs_with_other_data_are_not_compared(refused, runs, arrays, tmp_path, call):
    twin = shutil.copy(arrays, tmp_path / "twin.npz")
    assert call("train", "Linear1(width=4)", "--data", twin, "--epochs", "1", "--out", tmp_path / "r")[0] == 0
    said = refused("evaluate", runs / "plain", tmp_path / "r", *LINF)
    assert "were trained on different data" in said
    assert "--data" in said


def test_a_run_with_other_classes_is_named(refused, runs, tmp_path, call):
    x, _ = images(60)
    five = save(tmp_path / "five.npz", images=x, labels=np.arange(60) % 5)
    assert call("train", "Linear1(width=4)", "--data", five, "--epochs", "1", "--out", tmp_path / "five")[0] == 0
    arrays = load_run(runs / "plain").training.data.path
    said = refused("evaluate", runs / "plain", tmp_path / "five", *LINF, "--data", arrays)
    assert "five: the model gives (1, 5) for one image, the data have 3 classes" in said


def test_a_threat_without_a_radius_is_refused():
    with pytest.raises(UsageError, match=r"the threat is Threat\(\)\. Expected a ball such as Linf\(0\.3\)"):
        Measurement(PGD(), Threat(), runs=("x",))


def test_names_are_one_each():
    with pytest.raises(UsageError, match=r"1 names for 2 models\. Give one each, or none"):
        Measurement(PGD(), Linf(0.1), runs=("x", "y"), names=("before",))
    with pytest.raises(UsageError, match=r"two models are called after\. Give each a name of its own"):
        Measurement(PGD(), Linf(0.1), runs=("x", "y"), names=("after", "after"))


def test_what_an_evaluation_alone_answers_is_asked_of_nothing_else():
    aimed = Measurement(PGD(), Linf(0.1), runs=("x",), target=0)
    shielded = Measurement(PGD(), Linf(0.1), runs=("x", "y"), shield=BitDepth(1), repair=True)
    with pytest.raises(UsageError, match=r"a comparison makes no use of target\. Leave that out, or use steelman eval"):
        Comparison((PGD(),), aimed)
    with pytest.raises(UsageError, match="a certification makes no use of target"):
        Certification(Interval(), aimed, (0.1,))
    with pytest.raises(UsageError, match="a crossing makes no use of shield, repair"):
        Crossing(shielded, (PGD(),))


# weights


def test_weights_that_do_not_fit_are_refused(refused, runs, arrays, tmp_path):
    weights = load_file(runs / "plain/weights.safetensors")
    name, value = next(iter(weights.items()))
    save_file({**weights, name: torch.zeros(3, 3), "strange": value}, tmp_path / "w.safetensors")
    words = (
        "evaluate",
        "--model",
        "Linear1(width=16)",
        "--data",
        arrays,
        *LINF,
        "--weights",
        tmp_path / "w.safetensors",
    )
    said = refused(*words)
    assert "unexpected: strange" in said
    assert f"of other shape: {name} (3, 3)" in said


class Code:
    def __reduce__(self):
        return print, ("this must never be printed",)


def test_pickles_with_code_are_refused(refused, arrays, tmp_path):
    for name, write in (
        ("torch.pt", torch.save),
        ("plain.pt", lambda value, path: path.write_bytes(pickle.dumps(value))),
    ):
        write({"state_dict": Code()}, tmp_path / name)
        words = ("--model", "Linear1", "--data", arrays, *LINF, "--weights", tmp_path / name)
        assert f"{name} holds code or objects beside tensors" in refused("evaluate", *words)


# eps


def test_an_eps_beyond_the_pixel_range_is_warned_of(call, runs, arrays):
    code, out, err = call("attack", runs / "plain", "FGSM()", "--threat", "Linf(8)", "--num", "5")
    assert code == 0
    assert "robust" in out
    assert err.startswith("steelman: warning: eps 8 is beyond the pixel range")
    assert "Linf(8/255)" in err
    assert err.count("\n") == 1
    code, out, err = call("attack", runs / "plain", "FGSM()", "--threat", "L2(8.1)", "--num", "5")
    assert "8 already allows every image" in err  # the square root of 64 pixels
    assert call("attack", runs / "plain", "FGSM()", "--threat", "L2(inf)", "--num", "5")[2] == ""


def test_training_within_too_large_an_eps_is_warned_of(call, arrays, tmp_path):
    words = ("train", "Linear1(width=4)", "--data", arrays, "--epochs", "1")
    code, _, err = call(*words, "--objective", "Adversarial(FGSM(), L2(10))", "--out", tmp_path / "a")
    assert code == 0
    assert err.startswith("steelman: warning: eps 10 is beyond the pixel range")
    assert call(*words, "--objective", "Adversarial(FGSM(), L2(1))", "--out", tmp_path / "b")[2] == ""


# run directories


@pytest.fixture
def no_training(monkeypatch):
    """Fails the test when anything is computed."""
    monkeypatch.setattr("steelman.train.fit", lambda *_, **__: pytest.fail("it was computed"))
    monkeypatch.setattr("steelman.evaluate.strike", lambda *_, **__: pytest.fail("it was computed"))


def test_no_disk_space_is_said_before_computing(refused, runs, arrays, tmp_path, monkeypatch, no_training):
    usage = type(shutil.disk_usage(tmp_path))
    monkeypatch.setattr("steelman.runs.shutil.disk_usage", lambda _: usage(2**30, 2**30 - 2**20, 2**20))
    assert "only 1 MB are free" in refused("train", "CNN", "--data", "digits", "--out", tmp_path / "r")
    assert "only 1 MB are free" in refused("evaluate", runs / "plain", *LINF, "--out", tmp_path / "e")


def test_unwritable_directories_are_said_before_computing(refused, runs, arrays, tmp_path, no_training):
    (tmp_path / "file").touch()
    inside = tmp_path / "file" / "r"
    assert f"cannot write to the run directory {inside}" in refused("train", "CNN", "--data", "digits", "--out", inside)
    assert "cannot write to the run directory" in refused("evaluate", runs / "plain", *LINF, "--out", inside)
    assert "cannot write to" in refused("attack", runs / "plain", "FGSM()", *LINF, "--save", inside / "set")
    assert "--save is '.', which names no file" in refused("attack", runs / "plain", "FGSM()", *LINF, "--save", "")


def test_directories_of_something_else_are_refused(refused, runs, arrays, tmp_path):
    (tmp_path / "thesis.txt").touch()
    assert "is not empty and holds no run" in refused("train", "CNN", "--data", "digits", "--out", tmp_path)
    assert "holds another run" in refused("train", "MLP", "--data", arrays, "--out", runs / "plain")
    assert "is no run" in refused("evaluate", tmp_path, *LINF)


def test_two_processes_on_one_directory(refused, arrays, tmp_path):
    with Run.open(tmp_path / "r", "Training(...)"):
        said = refused("train", "Linear1(width=4)", "--data", arrays, "--out", tmp_path / "r")
    assert "is in use by another process" in said


def test_an_interrupted_training_says_how_to_go_on_and_does(call, arrays, tmp_path, monkeypatch):
    words = ("train", "Linear1(width=4)", "--data", arrays, "--epochs", "3", "--out")
    assert call(*words, tmp_path / "whole")[0] == 0
    step, steps = fitting._Loop._step, []

    def stop(loop, *arguments):
        steps.append(1)
        if len(steps) == 2:
            raise KeyboardInterrupt
        return step(loop, *arguments)

    monkeypatch.setattr(fitting._Loop, "_step", stop)
    code, out, err = call(*words, tmp_path / "stopped")
    assert (code, out) == (130, "")
    assert "Run the same command again to go on" in err
    assert err.count("\n") == 1
    assert "holds no results/page.json" in call("report", tmp_path / "stopped")[2]
    assert call(*words, tmp_path / "stopped")[0] == 0
    whole, resumed = (load_file(tmp_path / name / "weights.safetensors") for name in ("whole", "stopped"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_stopped_evaluation_says_so(call, runs, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("steelman.evaluate.strike", stop)
    code, out, err = call("attack", runs / "plain", "FGSM()", *LINF)
    assert (code, out) == (130, "")
    assert err == "steelman: stopped by Ctrl-C. Nothing was kept.\n"
    err = call("evaluate", runs / "plain", "--attack", "FGSM()", *LINF)[2]
    assert err == "steelman: stopped by Ctrl-C. Nothing was kept. With --out what is finished is.\n"


def test_a_ramp_that_ends_with_the_training_is_warned_of(call, arrays, tmp_path):
    words = ("train", "Linear1(width=4)", "--data", arrays, "--epochs", "1")
    late = "Guarded(Adversarial(FGSM(), Linf(0.3), ramp=1.0))"
    code, _, err = call(*words, "--objective", late, "--out", tmp_path / "a")
    assert code == 0
    assert err.startswith("steelman: warning: eps is 0.27 when 90% of training is done, and 0.3 at its end or never")
    assert "Give a shorter ramp" in err
    assert call(*words, "--objective", late.replace("1.0", "0.9"), "--out", tmp_path / "b")[2] == ""


def test_options_beside_a_spec_are_refused(runs, call, tmp_path):
    """They were passed over: the spec says everything."""
    words = ("evaluate", runs / "plain", "--threat", "Linf(0.02)", "--attack", "FGSM()", "--num", "3")
    assert call(*words, "--out", tmp_path / "e")[0] == 0
    spec = (tmp_path / "e" / "spec.txt").read_text()
    code, _, err = call("evaluate", spec, "--num", "5", "--threat", "Linf(0.5)")
    assert (code, "--threat, --num was given beside it. Change its text" in err) == (2, True)
    assert call("evaluate", spec)[0] == 0


def test_no_attack_and_no_model_are_named(runs, call):
    code, _, err = call("compare", runs / "plain", "--attacks", "--threat", "Linf(0.1)")
    assert (code, "--attacks names none" in err) == (2, True)
    code, _, err = call("attack", "--threat", "Linf(0.1)", "--data", "digits")
    assert (code, "no model was given" in err) == (2, True)


def test_runs_that_number_the_same_classes_otherwise_are_not_compared(call, tmp_path):
    for name, order in (("first", "('3', '8')"), ("second", "('8', '3')")):
        words = ("train", "Linear1(width=4)", "--data", f"Classes(Digits(), {order})", "--epochs", "1")
        assert call(*words, "--out", tmp_path / name)[0] == 0
    words = ("--data", "Classes(Digits(), ('3', '8'))", "--attack", "FGSM()", "--threat", "Linf(0.05)", "--num", "20")
    code, _, err = call("evaluate", tmp_path / "first", tmp_path / "second", *words)
    assert (code, "second numbers the classes" in err) == (2, True)
    assert "Evaluate them one by one" in err


def test_a_run_given_twice_is_refused(refused, runs):
    words = ("evaluate", runs / "plain", runs / "plain", "--attack", "FGSM()", *LINF)
    assert "plain was given twice. Give each run once." in refused(*words)


def test_a_spec_of_another_verb_is_sent_there(refused, runs):
    spec = "Comparison((FGSM(),), Measurement(FGSM(), Linf(0.1)))"
    for verb in ("certify", "evaluate", "transfer-matrix"):
        assert "that is the spec of a comparison. Give it to steelman compare." in refused(verb, spec)
    said = refused("compare", runs / "plain", runs / "other", "--attacks", "FGSM()", *LINF)
    assert "2 models were given" in said
    assert "Attacks are compared on one." in said


def test_a_single_array_is_no_data_set(refused, runs, tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((30, 8, 8), "uint8"))
    said = refused("attack", runs / "plain", "FGSM()", *LINF, "--data", tmp_path / "x.npy")
    assert "x.npy is one array. Save images and labels together: np.savez(" in said
