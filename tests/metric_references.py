"""The published evaluations written out as loops over pixels and answers: slow, plain, and one by one.

An answer is (prediction, truth, ignore, rejected, no_target), masks as bool arrays of one shape.
"""

from fractions import Fraction

PRECISIONS = (5, 6, 7, 8, 9)


def pixels(*masks):
    height, width = masks[0].shape
    for y in range(height):
        for x in range(width):
            yield tuple(bool(mask[y, x]) for mask in masks)


def areas(prediction, truth, ignore):
    inter = union = 0
    for found, wanted, skipped in pixels(prediction, truth, ignore):
        inter += found and wanted and not skipped
        union += (found or wanted) and not skipped
    return inter, union


def quotient(up, down):
    return float(Fraction(up) / Fraction(down)) if down else None


def lisa(answers):
    total_i = total_u = 0
    ious = []
    for prediction, truth, ignore, _, _ in answers:
        inter, union = areas(prediction, truth, ignore)
        ious.append(1.0 if union == 0 else inter / (union + 1e-5))
        total_i, total_u = total_i + inter, total_u + union
    return {"cIoU": quotient(total_i, total_u), "gIoU": sum(ious) / len(ious)}


def text4seg(answers):
    """An answer of "others" everywhere is an empty mask; then LISA's loop."""
    return lisa([(p & (not rejected), t, i, rejected, e) for p, t, i, rejected, e in answers])


def gsva(answers, costly_false_masks=True):
    total_i = total_u = 0
    ious, right_n, wrong_n, right_t, wrong_t = [], 0, 0, 0, 0
    for prediction, truth, ignore, rejected, no_target in answers:
        inter, union = areas(prediction, truth | ignore, ignore & False)
        if not no_target:
            total_i, total_u = total_i + inter, total_u + union
            ious.append(inter / (union + 1e-8))
            right_t, wrong_t = right_t + (not rejected), wrong_t + rejected
        elif rejected:
            right_n += 1
            ious.append(1.0)
        else:
            wrong_n += 1
            ious.append(0.0)
            if costly_false_masks:
                total_u += sum(found for (found,) in pixels(prediction))
    return {
        "cIoU": quotient(total_i, total_u),
        "gIoU": sum(ious) / len(ious),
        "N_acc": quotient(right_n, right_n + wrong_n),
        "T_acc": quotient(right_t, right_t + wrong_t),
    }


def gsva_refzom(answers):
    return gsva(answers, costly_false_masks=False)


def rela(answers):
    total_i = total_u = 0
    ious, on_targets, told = [], [], {True: [], False: []}
    for prediction, truth, ignore, rejected, no_target in answers:
        inter, union = areas(prediction, truth, ignore)
        told[no_target].append(rejected)
        if no_target:
            ious.append(1.0 if rejected else 0.0)
            total_u += 0 if rejected else union
            continue
        inter = 0 if rejected else inter
        ious.append(inter / union if union else 0.0)
        on_targets.append(Fraction(inter, union) if union else Fraction(0))
        total_i, total_u = total_i + inter, total_u + union
    return {
        "cIoU": quotient(total_i, total_u),
        "gIoU": sum(ious) / len(ious),
        **precisions(on_targets),
        "N_acc": quotient(sum(told[True]), len(told[True])),
        "T_acc": quotient(sum(not one for one in told[False]), len(told[False])),
    }


def precisions(ious):
    return {f"P@0.{t}": quotient(sum(iou >= Fraction(t, 10) for iou in ious), len(ious)) for t in PRECISIONS}


def lavt(answers):
    counts = [areas(prediction, truth, ignore) for prediction, truth, ignore, _, _ in answers]
    ious = [Fraction(inter, union) if union else Fraction(0) for inter, union in counts]
    return {
        "cIoU": quotient(sum(inter for inter, _ in counts), sum(union for _, union in counts)),
        "mIoU": quotient(sum(ious), len(ious)),
        **precisions(ious),
    }


def refzom(answers):
    cleared = [(p & (not rejected), t, i, e) for p, t, i, rejected, e in answers]
    scores = lavt([(p, t, i, False, e) for p, t, i, e in cleared if not e]) if not all_absent(answers) else {}
    empty = [not any(found and not out for found, out in pixels(p, i)) for p, _, i, e in cleared if e]
    return {**scores, "N_acc": quotient(sum(empty), len(empty))}


def all_absent(answers):
    return all(no_target for *_, no_target in answers)
