"""Facial-expression recognition with a chain of thought, in JAX.

A picture of a face goes in; a label and the observations it rests on come out. The package is a row of rooms, and a
value travels through them in this order::

    sources --> engine --> records --> train --> infer --> evaluate

``faces``        what a face says: expressions, action units, intensities, the ``Annotation`` that carries them
``cot``          the three-part text (observations, interpretation, conclusion): how it is written and how it is read
``sources``      where faces come from
``parallel``     the mesh, the table of shardings, attention by platform
``models``       Flax modules: vision tower, projector, decoder, LoRA, and ``ExpLLM`` itself
``weights``      between our parameter paths and other tools' files
``checkpoints``  saving and restoring with Orbax
``records``      conversations, tokenizers, the record files and the input pipeline
``infer``        answers from a trained model
``engine``       writes the reasoning text for an annotated face
``train``        the state, the step and the loop
``evaluate``     scores, intervals, the report

Every room's ``help()`` says what it offers. ``errors`` and ``assets`` serve all of them; nothing is imported here, so
that ``import expllm_jax`` starts no accelerator.
"""

__version__ = "0.1.0"
