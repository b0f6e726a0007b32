# Two stages: pip and its caches stay behind, the environment goes on.
FROM python:3.13-slim AS build
WORKDIR /src
RUN python -m venv /opt/postrider
ENV PATH=/opt/postrider/bin:$PATH
COPY . .
RUN pip install --no-cache-dir --constraint constraints.txt .

FROM python:3.13-slim
# A new volume takes owner and mode of the folder that it is put on.
RUN useradd --uid 10001 --create-home --home-dir /var/lib/postrider postrider \
  && install --directory --owner=postrider --group=postrider --mode=700 /var/lib/postrider/data
COPY --from=build /opt/postrider /opt/postrider
ENV PATH=/opt/postrider/bin:$PATH PYTHONUNBUFFERED=1 BIND=0.0.0.0:5000
USER 10001
WORKDIR /var/lib/postrider
EXPOSE 5000
CMD ["postrider", "api"]
