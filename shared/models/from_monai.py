"""Networks from MONAI, brought to one shape: (B, C, *spatial) in, one tensor out.

Rules
- Each is built with MONAI's batch normalisation, which all of its classes know how to place, and ``replace_norms`` then
  swaps it. Passing ``norm`` instead does not work: ``ResNet`` and ``AttentionUnet`` ignore it in most layers, and
  ``DenseNet`` and others want one group count for layers of different widths.
- Deep supervision is off.
"""

from __future__ import annotations

from monai.networks.nets.attentionunet import AttentionUnet
from monai.networks.nets.basic_unet import BasicUNet
from monai.networks.nets.densenet import DenseNet
from monai.networks.nets.dynunet import DynUNet
from monai.networks.nets.resnet import ResNet
from monai.networks.nets.segresnet import SegResNet
from monai.networks.nets.swin_unetr import SwinUNETR
from monai.networks.nets.unet import UNet
from torch import nn

from shared.models.norms import replace_norms
from shared.models.spec import ModelSpec


def densenet121(spec: ModelSpec, _: tuple[int, ...]) -> nn.Module:
    """DenseNet-121 (Huang et al., CVPR 2017); its widths are fixed."""
    network = DenseNet(spec.dimensions, spec.input_channels, spec.output_channels, dropout_prob=spec.dropout)
    return replace_norms(network, spec.norm)


def resnet18(spec: ModelSpec, widths: tuple[int, ...]) -> nn.Module:
    """ResNet-18 (He et al., CVPR 2016)."""
    return _resnet(spec, widths, "basic", [2, 2, 2, 2])


def resnet50(spec: ModelSpec, widths: tuple[int, ...]) -> nn.Module:
    """ResNet-50 (He et al., CVPR 2016)."""
    return _resnet(spec, widths, "bottleneck", [3, 4, 6, 3])


def _resnet(spec: ModelSpec, widths: tuple[int, ...], block: str, layers: list[int]) -> nn.Module:
    network = ResNet(
        block,
        layers,
        list(widths),
        spatial_dims=spec.dimensions,
        n_input_channels=spec.input_channels,
        conv1_t_stride=2,  # the paper's; MONAI's default of 1 costs four times as much in 2-D, eight in 3-D
        shortcut_type="B",  # MONAI's shortcut A, its default for ResNet-18, cuts the gradient (``out.data``)
        num_classes=spec.output_channels,
    )
    network.set_submodule("avgpool", nn.Sequential(network.avgpool, nn.Dropout(spec.dropout)))
    return replace_norms(network, spec.norm)


def unet(spec: ModelSpec, widths: tuple[int, ...]) -> nn.Module:
    """Residual U-Net (Kerfoot et al., STACOM 2018): cheap, because its first layer already halves the image.

    That first stride costs structures of one or two voxels, such as fine vessels; ``fine_unet`` keeps them.
    """
    network = UNet(
        spec.dimensions,
        spec.input_channels,
        spec.output_channels,
        channels=widths,
        strides=(2,) * (len(widths) - 1),
        num_res_units=2,
        norm="batch",
        dropout=spec.dropout,
    )
    return replace_norms(network, spec.norm)


def fine_unet(spec: ModelSpec, widths: tuple[int, ...]) -> nn.Module:
    """Plain U-Net whose first two levels keep full resolution: small and fast, for structures of one or two voxels."""
    network = UNet(
        spec.dimensions,
        spec.input_channels,
        spec.output_channels,
        channels=widths,
        strides=(1, *(2,) * (len(widths) - 2)),
        num_res_units=0,
        norm="batch",
        dropout=spec.dropout,
    )
    return replace_norms(network, spec.norm)


def basic_unet(spec: ModelSpec, widths: tuple[int, ...]) -> nn.Module:
    """U-Net with a first level at full resolution (Falk et al., Nature Methods 2019).

    ``widths`` are five levels and the width of the last layers at full resolution; five alone repeat the first there.
    """
    features = widths if len(widths) == 6 else (*widths, widths[0])
    network = BasicUNet(
        spec.dimensions,
        spec.input_channels,
        spec.output_channels,
        features=features,
        norm="batch",
        bias=False,  # the normalisation that follows subtracts any bias again
        dropout=spec.dropout,
    )
    return replace_norms(network, spec.norm)


def dynunet(spec: ModelSpec, widths: tuple[int, ...]) -> nn.Module:
    """The U-Net of nnU-Net (Isensee et al., Nature Methods 2021), with 3x3 kernels and stride 2 between levels."""
    halvings = (2,) * (len(widths) - 1)
    network = DynUNet(
        spec.dimensions,
        spec.input_channels,
        spec.output_channels,
        kernel_size=(3,) * len(widths),
        strides=(1, *halvings),
        upsample_kernel_size=halvings,
        filters=widths,
        dropout=spec.dropout,
        norm_name="batch",
    )
    return replace_norms(network, spec.norm)


def segresnet(spec: ModelSpec, widths: tuple[int, ...]) -> nn.Module:
    """SegResNet (Myronenko, BrainLes 2018); the one width given doubles from level to level."""
    network = SegResNet(
        spec.dimensions,
        widths[0],
        spec.input_channels,
        spec.output_channels,
        dropout_prob=spec.dropout,
        norm="batch",
    )
    return replace_norms(network, spec.norm)


def attention_unet(spec: ModelSpec, widths: tuple[int, ...]) -> nn.Module:
    """Attention U-Net (Oktay et al., MIDL 2018)."""
    network = AttentionUnet(
        spec.dimensions,
        spec.input_channels,
        spec.output_channels,
        channels=widths,
        strides=(2,) * (len(widths) - 1),
        dropout=spec.dropout,
    )
    return replace_norms(network, spec.norm)


def swin_unetr(spec: ModelSpec, widths: tuple[int, ...]) -> nn.Module:
    """Swin UNETR (Hatamizadeh et al., BrainLes 2021); the one width given doubles from level to level."""
    network = SwinUNETR(
        spec.input_channels,
        spec.output_channels,
        feature_size=widths[0],
        drop_rate=spec.dropout,
        norm_name="batch",
        spatial_dims=spec.dimensions,
    )
    return replace_norms(network, spec.norm)
