"""What the page says about its figures."""

SPARSITY = (
    "The fraction of the weights of each matrix that the masks prune, by layer and projection. The experts of a layer "
    "count together. Rest the pointer on a cell for its value, or see the tables below."
)
LOST = (
    "Lost is the sum of the scores of the pruned weights as a fraction of the sum of all scores of a matrix. A score "
    "is what the search found for a weight, |Γ|. Scores of different searches are in different units, so compare what "
    "is lost between sparsities of one search."
)
QUALITY = (
    "Each line is a method; N:M patterns stand apart. Bars are the interval that the file gives: 95\u00a0% over "
    "windows of a comparison, one standard error of an evaluation. Lower perplexity and higher accuracy are better."
)
SEARCH = (
    "The loss of each calibration sample, of the model as the search sees it: masked along the ramp in feedback, with "
    "moving weights in drift and coupled. The threshold is the score below which feedback masks a weight, or the "
    "median of τ over the matrices in drift and coupled. The thick line is the mean of the values around."
)
SCORES = (
    "How the scores |Γ| of each projection are spread, on a logarithmic scale: all layers together, some 65,536 of "
    "each matrix at even distances. The height is relative to the highest bar of each projection; the outermost bars "
    "hold what lies beyond them."
)
PROVENANCE = "As the folders record it."
COMMANDS = "Written anew from the records, with every setting and the names of files as they were then."
UNKNOWN_RESULTS = (
    "results {!r} hold no figures that are known; pass the results.json of 'unipruning compare' or 'unipruning eval', "
    "or what 'unipruning perplexity --json' printed"
)
