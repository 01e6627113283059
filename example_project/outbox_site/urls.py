"""The admin is the only page: it shows endpoints, deliveries, and the schedule."""

from django.contrib import admin
from django.urls import path

urlpatterns = [path("admin/", admin.site.urls)]
