"""What every party must agree on: plan, messages, models, preprocessing, tasks, evaluation."""
