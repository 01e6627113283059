"""Read-only pages: the application makes rows, and the task closes them."""

from typing import Any

from django.contrib import admin

from webhooks.models import Delivery, Digest, Endpoint


class ReadOnlyAdmin(admin.ModelAdmin):
    def has_add_permission(self, request: Any) -> bool:
        return False

    def has_change_permission(self, request: Any, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: Any, obj: Any = None) -> bool:
        return False


@admin.register(Endpoint)
class EndpointAdmin(ReadOnlyAdmin):
    list_display = ["name", "url", "created_at"]
    search_fields = ["name", "url"]


@admin.register(Digest)
class DigestAdmin(ReadOnlyAdmin):
    list_display = ["endpoint", "slot", "delivered", "pending"]
    list_filter = ["endpoint"]
    list_select_related = ["endpoint"]


@admin.register(Delivery)
class DeliveryAdmin(ReadOnlyAdmin):
    list_display = [
        "id",
        "event",
        "endpoint",
        "state",
        "attempts",
        "next_attempt_at",
        "delivered_at",
        "response_status",
    ]
    list_filter = ["state", "event", "endpoint"]
    list_select_related = ["endpoint"]
    search_fields = ["event"]
