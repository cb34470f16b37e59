"""The losses of domain adaptation, as functions of tensors. They keep no state and draw no random numbers.

    supervised        label_loss
    adversarial       domain_loss, domain_accuracy: DANN
    cdan              what the domain classifier of CDAN sees, and the entropy weights of CDAN+E
    target_outputs    entropy, mcc, bnm, diversity, information_maximisation, class_balance
    vat               vat_loss: predictions that stay put when the image moves in the worst direction
    self_ensembling   confident_consistency: agreement with a mean teacher
    adamatch          pseudo-labels above a relative threshold, aligned to the classes of the source
    refinement        teacher_divergence: staying near an earlier model while moving on, as in DIRT-T
    probabilities     what these share: probabilities, entropies and divergences from logits

Legend: N images, K classes, D features, C × H × W an image. All take logits and compute in float32 whatever the
precision of the network (float64 stays float64). Each loss is a 0-d tensor to minimise, a mean over images.
"""
