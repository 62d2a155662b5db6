"""Prompts of stage 1, apart from `workload.py` because that needs torch."""

CAPTION_PROMPTS = ["Illustrate the details of the picture.", "Explain what is depicted in the photograph."]
WELL_CURATED_PROMPT = """\
Please provide a detailed description of the image, focusing on the following.
Identify the main subjects (people, animals, objects) in the image and describe what they are doing.
Describe the setting of the image. Is it indoors or outdoors? What kind of environment or location does it depict?
What mood does the image convey? Are there any specific elements (such as lighting, weather, expressions) that \
contribute to this atmosphere?
Describe the dominant colors and the overall composition. How do these elements affect the image's impact?"""
HALLUCINATION_PROMPTS = [
    "Describe the image with imaginative objects that may exist in the scene.",
    "Augment the scene with details of potential events or items that are plausible.",
]
