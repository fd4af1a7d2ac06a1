"""The library form: the same windows, detectors, alerts, store and receivers for any async iterator of rows, without Kafka.

::

    detector = RealTimeAnomalyDetector({"window_size": 100, "stride": 10})
    detector.fit(history)
    async for result in detector.process_stream(data_stream):
        if result.is_anomaly: ...
"""

from service.library.detector import RealTimeAnomalyDetector

__all__ = ["RealTimeAnomalyDetector"]
