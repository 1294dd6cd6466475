"""The record of a run in MLflow. A record (a point, a file, a tag, the end of the run) is in one of these states::

said ──► waiting ──────────► journaled ──────────► sent
         outbox, memory │    journal.jsonl, disk │  tracking store
                        │               ▲        └► refused
                        │               └────────── refused.jsonl, artifacts are offered again
                        ├► sent, directly, as long as the disk of the spool takes nothing
                        └► lost, and counted: too many wait, or the job ends before disk or store takes them
"""
