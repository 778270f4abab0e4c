"""What an old experiment file may hold and no longer means anything: the replacement, and the study that says why.

An entry is a dotted key, or key=value where the key stays and the value is gone. A method's keys stand under its kind,
`methods.<kind>.<key>`, whatever the row is called; rows stand under `run.methods=<row>`.
"""

REMOVED = {
    # conditioning
    "conditioning.format=words": "write bars, which keep the order of preferences that training never saw; words keep"
    " 85 % of it (studies/preference_text)",
    "conditioning.format=levels": "write bars: ten characters cannot tell eleven tenths apart"
    " (studies/preference_text)",
    "conditioning.warm_start.labels": "leave it out: the label of a text is the preference that its rewards imply;"
    " `best` is not settled: one exploratory seed (studies/imdb)",
    # ppo, and a row's own `whiten`
    "ppo.whiten=preference": "write combined, which weighs rewards on one scale, or batch (studies/one_reward_scale)",
    "ppo.whiten=none": "write combined, which keeps the rewards' scale and brings the sum to unit size"
    " (studies/one_reward_scale)",
    # moc
    "methods.moc.control": "leave it out: moc has a control stream, as `sample` had; what was `feedback` is kind"
    " moc_feedback (studies/moc)",
    "methods.moc.weights": "leave it out: moc has min-norm weights; what was `lagrangian` is kind moc_feedback"
    " (studies/moc)",
    "methods.moc.multiplier": "the multiplier is a setting of kind moc_feedback (studies/moc)",
    "methods.moc.objective_weights": "leave it out: kind moc_feedback stops an objective's weight at 0, as"
    " `nonnegative` did (studies/moc)",
    "methods.moc.shortfall": "leave it out: kind moc_feedback takes what is missing relative to the achieved range"
    " (studies/moc)",
    "methods.moc.shrink": "leave it out: what is missing counts in full; to count it as far as it can be told from"
    " noise cost order (studies/humor_helpful)",
    "methods.moc.scale": "leave it out: rewards meet their targets on the quantile scale (studies/moc)",
    "methods.moc.granularity": "leave it out: one matrix per batch; per preference six samples are noise (studies/moc)",
    "methods.moc.smoothing": "leave it out: a smoothed matrix made no difference (studies/preference_text)",
    "methods.moc.solver": "leave it out: away-steps find the minimum that plain Frank-Wolfe misses by up to 0.04"
    " (studies/moc)",
    "methods.moc.streams=weighted": "write utility, the sum of the weighted streams, which has more of both"
    " (studies/moc)",
    "methods.moc.target=plain": "write range or scaled (studies/moc)",
    "methods.moc.target=simplex": "write range or scaled (studies/moc)",
    "methods.moc.target=arc": "write range, or take kind moc_feedback, whose targets lie on an arc (studies/moc)",
    "methods.moc.target=ray": "write range, or take kind moc_feedback: the direction alone cost order"
    " (studies/humor_helpful)",
    # other methods
    "methods.mse_only.scale": "leave it out: rewards meet their targets on the quantile scale (studies/default_task)",
    "methods.mse_only.target": "leave it out: the target is p / max p (studies/default_task)",
    "methods.pama.noon": "leave it out: Noon is part of the method; without it PAMA is an average (studies/pama)",
    "methods.pama.granularity": "leave it out: weights are of the batch, where PAMA has the most sentiment"
    " (studies/pama)",
    "methods.mgda_ub.solver": "leave it out: away-steps find the minimum that plain Frank-Wolfe misses (studies/moc)",
    "methods.mgda_ub.normalise": "leave it out: gradients keep their length, as in the paper (studies/pama)",
    "methods.modpo.labels": "leave it out: the loss is its mean over the draw of the labels; drawn ones lost a third of"
    " the hypervolume (studies/offline)",
    # rows
    "run.methods=linear_combined": "write linear, which weighs rewards on one scale by default"
    " (studies/one_reward_scale)",
    "run.methods=moc_signed": "write moc_feedback, whose weights stop at 0 (studies/moc)",
    "run.methods=moc_range": "write moc_feedback (studies/moc)",
    "run.methods=moc_ray": "write moc_feedback: the direction alone cost order (studies/humor_helpful)",
    "run.methods=moc_centred": "write moc_feedback (studies/humor_helpful)",
    "run.methods=moc_simplex": "write moc_feedback (studies/objectives)",
    "run.methods=moc_combined": "write moc_feedback, which weighs rewards on one scale by default"
    " (studies/one_reward_scale)",
    "run.methods=moc_min_norm": "write moc, which has min-norm weights (studies/moc)",
    "run.methods=moc_literal": "give the row a section: {kind: moc, streams: literal, target: scaled} (studies/moc)",
    "run.methods=pama_token": "write pama, whose weights are of the batch (studies/pama)",
    "run.methods=pama_sequence": "write pama, whose weights are of the batch (studies/pama)",
    "run.methods=pama_signed": "write pama, which has Noon (studies/pama)",
    "run.methods=pama_token_signed": "write pama, which has Noon and weights of the batch (studies/pama)",
    "run.methods=pama_sequence_signed": "write pama, which has Noon and weights of the batch (studies/pama)",
}
