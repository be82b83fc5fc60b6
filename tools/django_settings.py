"""What mypy must know of Django's settings to understand the models; nothing runs with it."""

INSTALLED_APPS = ["newsletter.store.apps.StoreConfig"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
SECRET_KEY = "not used"
USE_TZ = True
