"""Planning on the host: solvers of decision processes in float64, which return what they can certify.

They run in NumPy and SciPy on the CPU, where a sparse backup is bound by memory and needs no compiler. What has to be
traced, batched or differentiated, or lives on an accelerator, is solved by `chainrule.inference.bellman` instead.

- `process`: the transitions as matrices, and the backup;
- `bounds`: how far values can be from the optimum;
- `evaluation`: what a fixed policy is worth;
- `discounted`: value iteration, policy iteration and what lies between;
- `components`: where a process can stay for ever;
- `total_reward`, `average_reward`, `finite_horizon`: without discounting;
- `linear_programs`: the same as linear programmes, with constraints too;
- `long_run`, `stopping`: gain and bias of a chain; where to settle;
- `fixed_point`, `soft`, `nested`: soft, risk-averse and robust backups;
- `returns`: the tail of the return of a finite horizon.
"""
