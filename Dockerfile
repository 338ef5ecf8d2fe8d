# The image of rayjob.yaml. PyPI's torch for Linux brings CUDA's libraries with it; the node needs NVIDIA's driver only.
FROM rayproject/ray:2.60.0-py311
WORKDIR /home/ray/dfml
COPY --chown=ray pyproject.toml constraints.txt README.md run_sweep.py ./
COPY --chown=ray dfml dfml
COPY --chown=ray orchestration orchestration
COPY --chown=ray search_spaces search_spaces
RUN pip install --no-cache-dir --constraint constraints.txt --editable .
