"""What rides on a sampling run. The life of one run, and the order in which the host calls us:

OUTER_SAMPLE      make_run(guider, sigmas) -> Run, kept in the guider's transformer_options until the run ends
SAMPLER_SAMPLE      run.begin_run(processing): the conds are processed; the sampler's loop begins
PREDICT_NOISE         per evaluation: run.begin_evaluation(guider, Evaluation); a sampler's step may hold several
CALC_COND_BATCH         all prompts of the evaluation, in as many model calls as the host finds room for
APPLY_MODEL               per model call: run.change_text(text) of every run that does; then, run by run,
                          run.watch_forward(call) -> options, run.edit_forward(call, options), the host's forward,
                          run.end_forward(call)
post-CFG function       denoised -> guided, with what the calls have shown
PREDICT_NOISE         run.end_evaluation(evaluation, denoised): what all nodes and the guider make of it
OUTER_SAMPLE      run.finish(samples) where all went well; then the Run is dropped, also on error and interrupt

run.py holds this life, post_cfg.py guidance after CFG and what becomes of it, conds.py where each prompt acts,
processing.py what the host makes of others, joined.py texts behind a prompt's, record.py what stays after a run. Each
folder is one method.
"""
