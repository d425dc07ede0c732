"""Fine-tuning of detectors on PASCAL VOC and COCO, and their average precision."""
