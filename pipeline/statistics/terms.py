"""What the words of the comparison mean, and what each assumes."""

from __future__ import annotations

SCALE = (
    "Of a score between 0 and 1, as Dice, it reaches as far to either side on the scale of the "
    "logit, of one above 0 alone on that of the log: so it ends within what the score can be "
    "(Brown, Cai and DasGupta 2001)."
)


TERMS = {
    "Failed run": "A run whose Dice lies below the upper quartile of its variant's runs by more "
    "than {drop:g} and by more than four robust standard deviations of a run (Iglewicz and "
    "Hoaglin 1993). Of fewer than five runs none is. It assumes that fewer than half of a "
    "variant's runs fail.",
    "Failure rate": "The share of runs that fail, with Clopper and Pearson's exact interval "
    "(1934). It is of runs that fail by this rule, and assumes that they do independently.",
    "Typical run": "The mean over the runs that did not fail; of seven or more without the best "
    "and the worst tenth, one at least (Yuen 1974). It assumes that these runs are alike in "
    "shape in all variants, or symmetric.",
    "95 % interval": "Of a typical run or a difference of two: over seeds, by winsorised "
    "variances (of differences the larger of the own and that of all variants), and over cases; "
    "Student's t with Welch's degrees of freedom. Cases of one group, as photographs of one "
    "lesion or patient, count as one: the error over cases is the cluster-robust one (Cameron, "
    "Gelbach and Miller 2011). It assumes that the groups of test cases are a random sample of "
    f"such groups, and many. {SCALE} Two to six runs, or fewer than four that did not fail, have "
    "none.",
    "Shown": "The p-value is below 0.05 after adjusting for all pairs (Tukey's studentized range, "
    "each pair with its own error: Games and Howell 1976), or for all effects of a crossed "
    "design (Holm 1979). With fewer than seven seeds nothing is tested. Seeds pair the variants "
    "where the mean rank correlation of their runs is 0.2 or more; they always pair two.",
    "Equal": "Two one-sided tests show that the typical runs differ by less than the margin (Holm "
    "over all pairs).",
    "Mean over all runs": "Failed runs with them. Its interval admits as many failures as the "
    "failure rate's does, each as deep as the metric goes. It assumes nothing of how deep runs "
    "fail.",
}


OF_A_PAPER = {
    "One more run": "Where one more run lies that does not fail (or the mean of as many as stand "
    "behind the paper's figure), on other cases: Student's t with the degrees of freedom of the "
    "runs, at 95 % for all the paper's figures together. It assumes that runs are nearly normal.",
    "Probability that a claim is false": "Of the claim that a beats b, by the difference d of "
    "their typical runs: Student's t below -d / error, with the error of the 95 % interval and "
    "its degrees of freedom. Over cases alone, for these very runs: Student's t below "
    "-d / (s / sqrt(n)), s the standard deviation of the n cases' differences (arXiv 2505.04720), "
    "those of one group as one. "
    "It assumes what the interval does, and that large differences were no less likely beforehand "
    "than small ones.",
}


OF_OTHER_CASES = {
    "Change": "From the study's own test cases to an external set's: the typical run there less "
    "that here, or the difference of two variants there less that here. The same networks are "
    "scored on both: the error over seeds is of each run's own change (winsorised, Yuen's for "
    "dependent groups), and the errors over the cases of both sets add up. Holm over all variants, "
    "and over all pairs, of a set. It assumes what the 95 % interval does, of both sets.",
}


OF_SETTINGS = {
    "The best of its settings": "Each seed's run is of the setting whose mean validation Dice over "
    "the other seeds is best. So no run has a part in its own choice, and no test case in any. "
    "Figures are of a typical run of those chosen, with the choices in the error: the jackknife, "
    "which leaves each seed out of everything (Efron and Stein 1981). Where several settings are "
    "nearly as good, it is wider than need be.",
}


ONE_RUN = [  # of a table with one run of each variant
    (
        "95 % interval",
        "Over cases alone: Student's t, for these very runs. What another seed would give is not "
        f"in it. It assumes that the test cases are a random sample of such cases. {SCALE}",
    ),
    (
        "Probability that a claim is false",
        "Of the claim that a beats b, by the mean d of the n cases' differences: Student's t "
        "with n - 1 degrees of freedom below -d / (s / sqrt(n)), s their standard deviation "
        "(arXiv 2505.04720). "
        "With the seeds' variance in it (arXiv 2511.02453) it is larger, as a rule: that takes "
        "several runs.",
    ),
]


OF_FAILURES = ("Failed run", "Failure rate", "Mean over all runs")
OF_CONCLUSIONS = ("95 % interval", "Shown", "Equal", "Mean over all runs", *OF_A_PAPER)


def state_terms(
    drop: float,
    *,
    paper: bool,
    failures: bool = True,
    equal: bool = True,
    concluded: bool = True,
    external: bool = False,
    settings: bool = False,
) -> list[tuple[str, str]]:
    """Each word with its meaning; drop: the study's compare.failure_drop. paper: whether there is
    one to be held against; failures, equal: whether runs are called failed, and variants equal;
    concluded: whether there are runs enough to conclude anything from. external: whether there are
    other test sets; settings: whether a variant has several."""
    terms = TERMS | (OF_A_PAPER if paper else {}) | (OF_OTHER_CASES if external else {})
    terms |= OF_SETTINGS if settings else {}
    left_out = [*([] if failures else OF_FAILURES), *([] if equal else ["Equal"])]
    left_out += [] if concluded else OF_CONCLUSIONS
    return [
        (word, meaning.format(drop=drop)) for word, meaning in terms.items() if word not in left_out
    ]
