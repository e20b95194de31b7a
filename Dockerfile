# The page, on CPUs (Dockerfile.cuda: on NVIDIA's GPUs).
#
#     docker build -t wav2lip .
#     docker run -p 7860:7860 wav2lip
#
# The other commands, for example: docker run -v "$PWD":/work -w /work wav2lip wav2lip --face a.mp4 --audio b.wav
FROM python:3.12-slim AS build
WORKDIR /src
RUN python -m venv /opt/wav2lip
ENV PATH=/opt/wav2lip/bin:$PATH
# torch without the gigabytes of CUDA, in a layer that survives other changes; headless OpenCV, below, needs no X11
COPY constraints.txt .
RUN pip install --no-cache-dir torch -c constraints.txt --index-url https://download.pytorch.org/whl/cpu
COPY . .
RUN pip install --no-cache-dir ".[app]" -c constraints.txt
RUN pip uninstall --yes opencv-python && pip install --no-cache-dir opencv-python-headless -c constraints.txt

FROM python:3.12-slim
COPY --from=build /opt/wav2lip /opt/wav2lip
ENV PATH=/opt/wav2lip/bin:$PATH
# the download cache: a new volume mounted here inherits this owner
RUN useradd --create-home --uid 1000 wav2lip && install -d -o wav2lip /home/wav2lip/.cache
USER wav2lip
WORKDIR /home/wav2lip
EXPOSE 7860
CMD ["wav2lip-app", "--server_name", "0.0.0.0"]
