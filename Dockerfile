FROM python:3.13-slim
WORKDIR /srv
COPY requirements.txt .
# By hash, and nothing that is not in it.
RUN pip install --no-cache-dir --require-hashes -r requirements.txt
COPY . .
# Editable, so that alembic/ and static/ are found beside app/.
RUN pip install --no-cache-dir --no-deps --no-build-isolation -e . && useradd --create-home cadre && chown cadre /srv
USER cadre
# SECRET_KEY and DATABASE_URL come from outside; without them it refuses to start, and says so.
ENV ENVIRONMENT=production
EXPOSE 8000
CMD ["sh", "-c", "python -m app migrate && exec python -m app serve --host 0.0.0.0 --port 8000"]
