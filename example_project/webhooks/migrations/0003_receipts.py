from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("webhooks", "0002_digest")]

    operations = [
        migrations.AddField(
            model_name="endpoint", name="token", field=models.CharField(blank=True, default="", max_length=80)
        ),
        migrations.AddField(
            model_name="delivery",
            name="confirmed_at",
            field=models.DateTimeField(blank=True, editable=False, null=True),
        ),
    ]
