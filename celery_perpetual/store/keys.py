"""Every key of the store in one table.

``{P}`` is ``perpetual_key_prefix``; times are milliseconds of the store's own clock.

=====================  ======  =====================================================  ==============================
key                    type    holds                                                  who deletes it
=====================  ======  =====================================================  ==============================
{P}:leader             string  ``owner:term`` of the living leader                    TTL ``perpetual_leader_ttl``
{P}:leader:info        string  JSON: app, owner, term, digest and count of its units  TTL, as the leader
{P}:leader:handover    string  owner of the standby that asks for the lead            TTL, or the hand-over
{P}:term               string  the last term                                          never (one key)
{P}:alerts             hash    alert -> JSON: what is wrong, and since when            its end; a thousand
{P}:epoch              string  random identity of this store                          never (one key)
{P}:marks              zset    beat -> its last mark, see leave_mark.lua              a day after its last contact
{P}:cycle              string  that a maintenance pass is under way                   its end; TTL five seconds
{P}:units              zset    unit -> when it was last known: by a leader, or polled  unit removal
{P}:due                zset    unit -> when it is polled next                         unit removal, disabling
{P}:cursors            set     units that have a cursor                               reset of the cursor
{P}:u:{unit}           hash    anchor, slot, claim, cursor, in flight, back-off       unit removal
{P}:polls:{unit}       list    outcomes, newest first                                 length, TTL
{P}:keys:{unit}        hash    item key -> task id in flight                          end of the task
{P}:follow_ups:{unit}  list    records that after_success has named, no poll's yet     the commit; unit removal
{P}:recent:{unit}      hash    item key -> when its last task ended, and its id if    becomes the one before; TTL: three
                               that was announced                                     windows, or times of completions
{P}:recent_before:{unit}  hash  the same, of older ends                               when the next one begins; TTL
{P}:failed:{unit}      zset    item key -> until when it is held back, inf = parked   success, ``allow``, trimming
{P}:failures:{unit}    hash    item key -> ``count|at|status|error`` of its failures  success, ``allow``, trimming
{P}:p:{poll}           hash    one committed batch: unit, n, counters, destinations   TTL after its last item
{P}:i:{poll}:{chunk}   list    at most 500 records of items                           end of its last item; TTL
{P}:d:{poll}:{chunk}   string  bitmap of the items that have ended                    with the chunk
{P}:ended:{poll}       hash    task id -> record of an item that ended, not by success  TTL a day; when it is replayed
{P}:staged             zset    ``poll unit`` whose records wait for their commit      commit, or the cycle
{P}:starving           hash    queue -> JSON: how far the starvation ladder has come  when nothing waits too long
{P}:watching           string  JSON: the passes that have watched the ladder           never (one key)
{P}:outbox             zset    committed polls that are not wholly published          publish of the last message
{P}:put_off:{entry}    string  why an entry of such a list could not be done          TTL ten minutes
{P}:open               zset    unfinished batches -> when they were committed          end of the last item
{P}:tenants:{task}     hash    name of a tenant -> the tenant, JSON, as last found   the leader, when it has gone
{P}:tenants_failed     hash    task -> JSON: why its tenants function has no answer   its next answer; TTL a day
{P}:source:{key}       hash    pace of a source: last and next permit, wait asked       TTL a minute after the last one
{P}:replaying:{poll}   string  that a call enqueues items of the batch once more      its end; TTL a minute
{P}:preflight:{check}  string  JSON: how a preflight has ended                        TTL: of a pass, else 7 days
{P}:paused             hash    scope -> JSON: by, reason, at, until                   resume
{P}:receipt:{call}     string  that a call by hand has had its effect                 TTL one minute
{P}:base               hash    entry of the base scheduler -> its last run, and count  with the entry
{P}:batches            zset    finished batches whose ``on_batch_done`` is not sent    the cycle, or who finished it
{P}:owed               zset    tasks whose result the backend could not store -> next  the cycle; a day, ten thousand
                               try
{P}:owed:{id}          string  that result, JSON                                      with its entry in ``owed``; TTL
{P}:completion:{id}    string  the final record of a task, JSON                       TTL ``perpetual_completion_ttl``
{P}:done:{id}:queue    list    the same, one element to block on                      TTL ``perpetual_queue_ttl``
{P}:leases             hash    task id -> lease: who executes it, and its token       end, release, sweep
{P}:held:{worker}      set     ids that one worker executes                           end, release, sweep
{P}:states             hash    task id -> order, recoveries, what it waits for        end of the task
{P}:copies             hash    task id -> its message, where the ledger has it not    end of the task
{P}:parked             hash    task id -> JSON: why it waits for an operator          end, or an operator
{P}:parked:at          zset    the same id -> when it was parked                      with its entry in ``parked``
{P}:replaced           zset    item that replaced itself by several and does not end  the cycle
                               -> when it did; ten thousand
{P}:resend             zset    lost tasks -> since when they are to be sent again     who sends them
{P}:workers            zset    worker -> its deadline                                 stop, or the sweep
{P}:w:{worker}         hash    what a worker says of itself                           with the worker; TTL
{P}:tags:{worker}      hash    delivery tag -> task id, received, not acknowledged    with the worker; TTL
{P}:suspect:{id}       string  who received it, where the last one may have died of it  who received it; TTL one day
{P}:token              string  the last token of a lease                              never (one key)
{P}:seen               string  when a process was last in contact                     never (one key)
{P}:hold               string  until when no lease expires                            TTL
{P}:tombs:{day}        set     ids that ended on that day and are not in the ledger   TTL ``perpetual_tombstone_ttl``
{P}:tombs:of:{hour}    set     deliveries that ended them in that hour                TTL two hours
{P}:stats              hash    what the cycles have done, added up                    never (one key)
{P}:counters           hash    late ends and the like                                 never (one key)
{P}:routines           hash    routine -> its record                                  delete, clear, the cycle
{P}:routines:due       zset    routine -> when it runs next                           start of the run, pause, cancel
{P}:routines:running   zset    routine that runs now -> its slot                      end of the run, cancel
{P}:routines:inline    zset    routine run by its caller -> until when that is        end of the run; its expiry
                               believed
{P}:routines:pauses    zset    paused routine -> when its pause ends by itself        the end of the pause
{P}:routines:updated   zset    routine -> minus the time of its last change               with the routine
{P}:routines:over      zset    routine that has ended -> when it is forgotten         with the routine
{P}:routines:keys      hash    idempotency key -> routine                             with the routine
{P}:events             stream  what happened; capped                                  ``perpetual_events_maxlen``
=====================  ======  =====================================================  ==============================
"""

from __future__ import annotations


class Keys:
    """Names of the keys under one prefix."""

    #: The name of a queue is that of its channel with this behind it.
    QUEUE = ":queue"

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.leader = f"{prefix}:leader"
        self.leader_info = f"{prefix}:leader:info"
        self.handover = f"{prefix}:leader:handover"
        self.term = f"{prefix}:term"
        self.alerts = f"{prefix}:alerts"
        self.epoch = f"{prefix}:epoch"
        self.marks = f"{prefix}:marks"
        self.units = f"{prefix}:units"
        self.due = f"{prefix}:due"
        self.cursors = f"{prefix}:cursors"
        self.staged = f"{prefix}:staged"
        self.stats = f"{prefix}:stats"
        self.starving = f"{prefix}:starving"
        self.outbox = f"{prefix}:outbox"
        self.open = f"{prefix}:open"
        self.paused = f"{prefix}:paused"
        self.base = f"{prefix}:base"
        self.events = f"{prefix}:events"
        self.batches = f"{prefix}:batches"
        self.counters = f"{prefix}:counters"
        self.owed = f"{prefix}:owed"
        self.leases = f"{prefix}:leases"
        self.states = f"{prefix}:states"
        self.copies = f"{prefix}:copies"
        self.parked = f"{prefix}:parked"
        self.parked_at = f"{prefix}:parked:at"
        self.resend = f"{prefix}:resend"
        self.workers = f"{prefix}:workers"
        self.routines = f"{prefix}:routines"
        self.routines_due = f"{prefix}:routines:due"
        self.routines_running = f"{prefix}:routines:running"
        self.routines_inline = f"{prefix}:routines:inline"
        self.routines_pauses = f"{prefix}:routines:pauses"
        self.routines_updated = f"{prefix}:routines:updated"
        self.routines_over = f"{prefix}:routines:over"
        self.routines_keys = f"{prefix}:routines:keys"
        self.token = f"{prefix}:token"
        self.seen = f"{prefix}:seen"
        self.hold = f"{prefix}:hold"
        self.held_prefix = f"{prefix}:held:"
        self.tombs_prefix = f"{prefix}:tombs:"
        self.ends_channel = f"{prefix}:done"
        self.channel_prefix = f"{prefix}:done:"
        self.completion_prefix = f"{prefix}:completion:"
        self.unit_prefix = f"{prefix}:u:"
        self.polls_prefix = f"{prefix}:polls:"
        self.failed_prefix = f"{prefix}:failed:"
        self.poll_prefix = f"{prefix}:p:"
        self.source_prefix = f"{prefix}:source:"

    @property
    def chunks_prefix(self) -> str:
        return f"{self.prefix}:i:"

    @property
    def done_prefix(self) -> str:
        return f"{self.prefix}:d:"

    @property
    def cycle(self) -> str:
        return f"{self.prefix}:cycle"

    @property
    def watching(self) -> str:
        return f"{self.prefix}:watching"

    @property
    def replaced(self) -> str:
        return f"{self.prefix}:replaced"

    @property
    def tenants_failed(self) -> str:
        return f"{self.prefix}:tenants_failed"

    def put_off(self, entry: str) -> str:
        return f"{self.prefix}:put_off:{entry}"

    def preflight(self, name: str) -> str:
        return f"{self.prefix}:{name}"

    def receipt(self, call: str) -> str:
        return f"{self.prefix}:receipt:{call}"

    def owed_result(self, task_id: str) -> str:
        return f"{self.prefix}:owed:{task_id}"

    def suspect(self, task_id: str) -> str:
        return f"{self.prefix}:suspect:{task_id}"

    def unit(self, unit: str) -> str:
        return f"{self.unit_prefix}{unit}"

    def follow_ups(self, unit: str) -> str:
        return f"{self.prefix}:follow_ups:{unit}"

    def tenants(self, task: str) -> str:
        return f"{self.prefix}:tenants:{task}"

    def held(self, worker: str) -> str:
        return f"{self.held_prefix}{worker}"

    def worker(self, worker: str) -> str:
        return f"{self.prefix}:w:{worker}"

    def tags(self, worker: str) -> str:
        return f"{self.prefix}:tags:{worker}"

    def completion(self, task_id: str) -> str:
        return f"{self.completion_prefix}{task_id}"

    def channel(self, task_id: str) -> str:
        return f"{self.channel_prefix}{task_id}"

    def queue(self, task_id: str) -> str:
        return f"{self.channel_prefix}{task_id}{self.QUEUE}"

    def polls(self, unit: str) -> str:
        return f"{self.polls_prefix}{unit}"

    def item_keys(self, unit: str) -> str:
        return f"{self.prefix}:keys:{unit}"

    def recent(self, unit: str) -> str:
        return f"{self.prefix}:recent:{unit}"

    def recent_before(self, unit: str) -> str:
        return f"{self.prefix}:recent_before:{unit}"

    def failed(self, unit: str) -> str:
        return f"{self.failed_prefix}{unit}"

    def failures(self, unit: str) -> str:
        return f"{self.prefix}:failures:{unit}"

    def poll(self, poll_id: str) -> str:
        return f"{self.poll_prefix}{poll_id}"

    def chunk_prefix(self, poll_id: str) -> str:
        return f"{self.prefix}:i:{poll_id}:"

    def chunk(self, poll_id: str, chunk: int) -> str:
        return f"{self.prefix}:i:{poll_id}:{chunk}"

    def ended(self, poll_id: str) -> str:
        return f"{self.prefix}:ended:{poll_id}"

    def replaying(self, poll_id: str) -> str:
        return f"{self.prefix}:replaying:{poll_id}"

    def done(self, poll_id: str, chunk: int) -> str:
        return f"{self.prefix}:d:{poll_id}:{chunk}"
