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
  return string.format('%04d-%02d-%02dT%02d:%02d:%02d.%03dZ', year, month, day, (minutes - minute) / 60, minute, second, millis)
end
