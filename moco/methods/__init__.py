"""Contrastive methods, one paper a file.

A method is an `nn.Module` with `encoder` (images [B, 3, H, W] -> features [B, D]), `head` (-> [B, feature_dim]),
`views` (how many views of an image it looks at) and `forward(x1, x2, index) -> scalar loss`.
"""
