"""What an attacker gets out of training, with and without privacy: ``consilium-sim attack``.

What is compared: ``arms``; who was trained on: ``population``, ``trials``; the attacks: ``membership``, ``inversion``;
what they come to: ``curves``, ``bounds``; one command: ``compare``; what people see: ``page``, ``plots``, ``words``.
"""
