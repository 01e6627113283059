-- Civil date from days since the epoch, after Howard Hinnant's published algorithm. Floors by way of % cost no call.
local function rfc3339(ms)
  local rest = ms % 86400000
  local days = (ms - rest) / 86400000 + 719468
  local of_era = days % 146097
  local era = (days - of_era) / 146097
  local year = (of_era - (of_era - of_era % 1460) / 1460 + (of_era - of_era % 36524) / 36524 - (of_era - of_era % 146096) / 146096) / 365
  year = year - year % 1
  local of_year = of_era - (365 * year + (year - year % 4) / 4 - (year - year % 100) / 100)
  local month = (5 * of_year + 2) / 153
  month = month - month % 1
  local day = (153 * month + 2) / 5
  day = of_year - (day - day % 1) + 1
  month = month < 10 and month + 3 or month - 9
  year = year + era * 400 + (month <= 2 and 1 or 0)
  local millis = rest % 1000
  local seconds = (rest - millis) / 1000
  local second = seconds % 60
  local minutes = (seconds - second) / 60
  local minute = minutes % 60
  local hour = (minutes - minute) / 60
  local y1, y2, y3, m1, d1, h1 = year % 10, year % 100, year % 1000, month % 10, day % 10, hour % 10
  local n1, s1, f1, f2 = minute % 10, second % 10, millis % 10, millis % 100
  -- string.format takes four times as long.
  return string.char(48 + (year - y3) / 1000, 48 + (y3 - y2) / 100, 48 + (y2 - y1) / 10, 48 + y1, 45, 48 + (month - m1) / 10, 48 + m1,
    45, 48 + (day - d1) / 10, 48 + d1, 84, 48 + (hour - h1) / 10, 48 + h1, 58, 48 + (minute - n1) / 10, 48 + n1, 58,
    48 + (second - s1) / 10, 48 + s1, 46, 48 + (millis - f2) / 100, 48 + (f2 - f1) / 10, 48 + f1, 90)
end
