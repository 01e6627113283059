from django.apps import AppConfig


class WebhooksConfig(AppConfig):
    name = "webhooks"

    def ready(self) -> None:
        from webhooks import digests, receipts  # noqa: F401  # connects signals, registers tasks
